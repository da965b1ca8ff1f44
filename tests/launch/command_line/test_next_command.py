"""What a command says to type next can be typed."""

import importlib
import shlex
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from launch import build_corpus, gd, publish
from launch.command_line.next_command import build_line, load_line, next_line, publish_line, train_line
from launch.distillation.config import read_run_config
from launch.job.rank import again_line, parse_arguments
from launch.job.world import World

ROOT = Path(__file__).parents[3]
OTHERS = "next: the same command again, or its launcher with launch/gd.py --run runs/mine"


def typed(line: str) -> list[str]:
    """The words that a shell makes of it."""
    said, command = line.split(": ", 1)
    assert said == "next"
    return shlex.split(command)


def test_paths_with_spaces_stay_one_word():
    assert next_line("python", "launch/publish.py", "--run", Path("my runs/4l 312d")) == (
        "next: python launch/publish.py --run 'my runs/4l 312d'"
    )
    assert typed(publish_line(Path("my runs/x"), "4l 312d"))[2:] == [
        "--run", "my runs/x", "--student", "4l 312d", "--output", "students/4l 312d",
    ]  # fmt: skip


def test_a_model_whose_path_has_quotes_is_loaded_by_python():
    *python, code = typed(load_line(Path('it\'s "mine"'), "AutoModelForTokenClassification"))
    assert python == ["python", "-i", "-c"]
    found = []
    loads = Namespace(from_pretrained=found.append)
    names = {"AutoModelForTokenClassification": loads, "AutoTokenizer": loads}
    exec(code.split("; ", 1)[1], names)
    assert found == ['it\'s "mine"'] * 2
    exec(code.split("; ", 1)[0], {})
    assert 'AutoModel.from_pretrained("x", add_pooling_layer=False)' in load_line(
        Path("x"), options="add_pooling_layer=False"
    )


def test_what_trains_on_a_corpus_decodes(monkeypatch):
    launcher, script, *arguments = typed(train_line("data/my corpus", "hfl/some-teacher"))
    assert launcher == "deepspeed" and (ROOT / script).is_file()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    parsed = parse_arguments(str(gd.__doc__))
    config = read_run_config(ROOT / parsed.config, parsed.overrides)
    assert config.corpus.manifest == "data/my corpus" and config.teacher.path == "hfl/some-teacher"


def test_a_vocabulary_without_a_model_leads_to_the_training_of_a_teacher(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    command = typed(train_line("data/mine", str(tmp_path)))
    assert command[2:] == ["--config", "configs/teacher.json", "--set", "corpus.manifest=data/mine"]
    (tmp_path / "config.json").write_text("{}")
    assert f"teacher.path={tmp_path}" in typed(train_line("data/mine", str(tmp_path)))


def test_what_was_cut_for_a_corpus_is_for_its_own_text():
    command = typed(
        build_line(Namespace(inputs=None, format=None, text_fields=None, encoding=None, corpus="c"), Path("t"))
    )
    assert command[2:4] == ["--config", "THE_CONFIGURATION_OF_THAT_CORPUS.json"]


def test_what_builds_a_corpus_with_a_tokenizer_takes_the_same_text():
    options = Namespace(inputs=["my file", "b"], format="jsonl", text_fields=["title", "text"], encoding=None)
    command = typed(build_line(options, Path("my tokenizer")))
    parsed = build_corpus.parse_arguments(command[2:])
    assert (parsed.inputs, parsed.format, parsed.text_fields) == (["my file", "b"], "jsonl", ["title", "text"])
    assert parsed.tokenizer == "my tokenizer" and parsed.output
    options = Namespace(inputs=None, format=None, text_fields=None, encoding=None)
    assert Path(build_corpus.parse_arguments(typed(build_line(options, Path("t")))[2:]).config).is_file()


@pytest.mark.parametrize(
    ("world", "hosts", "line"),
    [
        (World(), None, "next: python launch/gd.py --run runs/mine"),
        (World(0, 0, 2, "a", 1, 2), "1", "next: deepspeed --num_gpus 2 launch/gd.py --run runs/mine"),
        (World(0, 0, 2, "a", 1, 2), "2", OTHERS),
        (World(0, 0, 2, "a", 1, 1), None, OTHERS),
    ],
)
def test_a_stopped_run_goes_on_by_its_folder_alone(world, hosts, line, monkeypatch):
    monkeypatch.delenv("CROSS_SIZE", raising=False)
    if hosts:
        monkeypatch.setenv("CROSS_SIZE", hosts)
    assert again_line("launch/gd.py", Path("runs/mine"), world) == line


def test_publishing_says_how_to_load_and_to_distil_a_task(monkeypatch, capsys):
    monkeypatch.setattr(publish, "publish", lambda **_: 1e-6)
    monkeypatch.setattr(sys, "argv", ["publish.py", "--run", "r", "--student", "s", "--output", "my students/s"])
    publish.main()
    _, load, task = capsys.readouterr().out.splitlines()
    assert 'from_pretrained("my students/s")' in typed(load)[-1]
    assert typed(task)[-1] == "student=my students/s" and (ROOT / typed(task)[3]).is_file()


@pytest.mark.parametrize(
    ("module", "work", "said"),
    [
        ("publish", "publish", "stopped; nothing was published\n"),
        ("inspect_corpus", "run", "stopped\n"),
        ("train_tokenizer", "train", "stopped; nothing was written\n"),
        ("trim_vocabulary", "save_trimmed", "stopped; nothing was written\n"),
        ("report", "build_report", "stopped; nothing was written\n"),
        ("export", "export", "stopped; nothing was written\n"),
        ("demo.parts", "build_parts", "stopped; finished parts are kept\n"),
        ("build_corpus", "run", "stopped; the same command continues from here\nnext: python launch/x.py --flag\n"),
    ],
)
def test_ctrl_c_is_answered_without_a_traceback(module, work, said, monkeypatch, capsys, tmp_path):
    arguments = {
        "publish": ["--run", "r", "--student", "s", "--output", "o"],
        "inspect_corpus": ["corpus"],
        "train_tokenizer": ["--input", "x", "--format", "lines", "--kind", "wordpiece", "--vocab-size", "100",
                            "--output", f"{tmp_path}/o"],
        "trim_vocabulary": ["--model", "m", "--corpus", "c", "--output", f"{tmp_path}/o"],
        "report": ["--run", "r", "--models", "a=b", "--labels", "l", "--output", "o"],
        "export": ["--student", "s", "--output", f"{tmp_path}/o"],
        "demo.parts": ["--output", "demo"],
        "build_corpus": ["--config", "c"],
    }[module]  # fmt: skip
    command = importlib.import_module(f"launch.{module}")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, work, interrupt)
    monkeypatch.setattr(sys, "argv", ["launch/x.py", *arguments])
    if module == "publish":
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 130
    else:
        monkeypatch.setattr(sys, "argv", ["launch/x.py", "--flag"])
        assert command.main(arguments) == 130
    assert capsys.readouterr().err == said
    assert not (tmp_path / "o").exists()
