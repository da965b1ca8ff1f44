"""Commands say what is wrong on terminals whose encoding lacks the characters of the message."""

import io
import json
import sys
import warnings

import pytest

from launch import build_corpus, evaluate_tasks, inspect_corpus, publish, report, train_tokenizer, trim_vocabulary
from launch.command_line.terminal import accept_any_terminal
from launch.demo import config as demo_config
from launch.job import rank

NONE = "无此文件"
COMMANDS = {
    build_corpus: ["--config", NONE],
    inspect_corpus: [NONE],
    train_tokenizer: [
        "--input",
        NONE,
        "--format",
        "lines",
        "--kind",
        "wordpiece",
        "--vocab-size",
        "100",
        "--output",
        "o",
    ],
    trim_vocabulary: ["--model", NONE, "--input", NONE, "--format", "lines", "--output", "o"],
    report: ["--models", f"a={NONE}", "--task", NONE, "--output", "o"],
    evaluate_tasks: ["--models", f"a={NONE}", "--tasks", NONE, "--output", "o"],
    publish: ["--run", NONE, "--student", "s", "--output", "o"],
    demo_config: ["--config", NONE, "--output", "o"],
}


@pytest.fixture
def terminal(monkeypatch):
    """Gives stdout and stderr the encoding of a terminal; returns what was written, decoded by it."""

    def open_terminal(encoding):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)

        def written(name):
            streams[name].flush()
            return streams[name].buffer.getvalue().decode(encoding)

        return written

    return open_terminal


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "big5", "gbk"])
def test_what_an_encoding_lacks_is_escaped(terminal, encoding):
    written = terminal(encoding)
    accept_any_terminal()
    text = "汉字 \ufffd é ︙ 𠮷"
    print(text)
    print(text, file=sys.stderr)
    assert written("stdout") == written("stderr") == text.encode(encoding, "backslashreplace").decode(encoding) + "\n"


def test_a_stream_that_cannot_be_changed_stays(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    accept_any_terminal()
    print("汉字")
    assert stream.getvalue() == "汉字\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_command_reports_errors(terminal, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *COMMANDS[command]])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # commands replace it
    written = terminal("ascii")
    try:
        code = command.main()
    except SystemExit as error:
        code = error.code
    assert code == 2 and "\\u65e0\\u6b64\\u6587\\u4ef6" in written("stderr")


def test_ranks_report_errors(terminal, monkeypatch):
    class Left(BaseException):
        """os._exit, which a test survives."""

    def leave(code):
        raise Left(code)

    def prepare(*_):
        raise ValueError(NONE)

    monkeypatch.setattr(sys, "argv", ["gd.py", "--config", NONE])
    monkeypatch.setattr(rank.os, "_exit", leave)
    monkeypatch.setattr(rank, "StopRequest", lambda *_: None)
    for name in ("tag_messages", "ignore_stop_requests", "share_cores"):
        monkeypatch.setattr(rank, name, lambda *_: None)
    written = terminal("ascii")
    with pytest.raises(Left) as left:
        rank.main("", prepare)
    assert left.value.args == (2,) and "error: \\u65e0\\u6b64" in written("stderr")


def test_explanations_are_shown(terminal, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "天\ufffd地\u2028玄黄（学名：）"}), encoding="utf-8")
    written = terminal("latin-1")
    arguments = ["--explain", "--input", str(tmp_path / "a.jsonl"), "--format", "jsonl", "--text-fields", "text"]
    assert build_corpus.main(arguments) == 0
    assert "changed empty_brackets: 1" in written("stdout") and "\\u5929" in written("stdout")
