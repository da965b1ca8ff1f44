from pathlib import Path

import pytest
from transformers import AutoTokenizer

from launch.train_tokenizer import main

TEXT = "天地玄黄 宇宙洪荒 lower lowest\n日月盈昃 辰宿列张 newest\n寒来暑往 秋收冬藏 龘\n"


def run(path: Path, output: Path, *flags: str) -> int:
    kind = ["--kind", "wordpiece"] if "--kind" not in flags else []
    size = ["--vocab-size", "50"] if "--vocab-size" not in flags else []
    return main(["--input", str(path), "--format", "lines", *kind, *size, "--output", str(output), *flags])


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_two_runs_give_the_same_folder_bit_for_bit(text, tmp_path, capsys):
    for name in ("one", "two"):
        assert run(text, tmp_path / name) == 0
        assert "0.000 unknown in 1,000 characters" in capsys.readouterr().out
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert set(files[0]) == {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "coverage.txt"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(tokenizer) == 50 and tokenizer.decode(tokenizer("天地 LOWER")["input_ids"][1:-1]) == "天 地 lower"


def test_cased_keeps_capitals(tmp_path, capsys):
    (tmp_path / "a").write_text("天天天天天 Lower lower Lower\n地地地地 Lower", encoding="utf-8")
    assert run(tmp_path / "a", tmp_path / "out", "--cased", "--vocab-size", "20") == 0
    assert {"L", "l"} <= set(AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab())


def test_rejected_documents_and_unknown_characters_are_reported(tmp_path, capsys):
    (tmp_path / "a").write_bytes("天地".encode() * 49 + b"\n\xff\n" + "地龘".encode())
    assert run(tmp_path / "a", tmp_path / "out", "--character-coverage", "0.9", "--vocab-size", "10") == 0
    told = capsys.readouterr()
    assert "a: documents left out: invalid_utf8 1, e.g. a:2" in told.err and "only 7 pieces of the 10" in told.err
    assert "unknown most often: '龘' (U+9F98) 1" in told.out
    assert "'龘' (U+9F98) 1" in (tmp_path / "out/coverage.txt").read_text("utf-8")


def test_refusals_are_one_line_and_leave_nothing(text, tmp_path, capsys):
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    (tmp_path / "there").mkdir()
    cases = {
        "empty: no text in the inputs (they hold only blank lines)": [tmp_path / "empty", tmp_path / "out"],
        "there: already exists; remove it or choose another": [text, tmp_path / "there"],
        "too many for a vocabulary of 20; choose a larger one": [text, tmp_path / "out", "--vocab-size", "20"],
        "missing: no such file or folder": [tmp_path / "missing", tmp_path / "out"],
        "command line: 1 problem(s)\nformat: ": [text, tmp_path / "out", "--format", "nonsense"],
    }
    for message, arguments in cases.items():
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text.txt", "there"]


def test_columns_read_as_text_warn(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("天地玄黄,1\n" * 9, encoding="utf-8")
    assert run(tmp_path / "a.csv", tmp_path / "out", "--vocab-size", "12") == 0
    assert "a.csv: a.csv is read as plain text, quotes and separators included" in capsys.readouterr().err


def test_text_in_another_encoding_is_read_when_asked_for(tmp_path, capsys):
    (tmp_path / "a").write_bytes("天地玄黄\n".encode("gbk") * 9)
    assert run(tmp_path / "a", tmp_path / "out") == 2
    message = "a: no text in the inputs (invalid_utf8 9, e.g. a:1); invalid_utf8: --encoding detect or gb18030 ("
    assert message in capsys.readouterr().err
    assert run(tmp_path / "a", tmp_path / "out", "--encoding", "gb18030", "--vocab-size", "10") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--character-coverage", "0"], "must be above 0 and at most 1, got 0.0"),
        (["--vocab-size", "9"], "--vocab-size must be at least 10, got 9"),
        (["--kind", "unigram", "--cased"], "--cased is for --kind wordpiece"),
    ],
)
def test_wrong_flags_are_refused_at_once(text, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        run(text, tmp_path / "out", *flags)
    assert message in capsys.readouterr().err
