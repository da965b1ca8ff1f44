"""The command as users type it: once in a separate process, else in this one."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from launch import inspect_corpus
from launch.build_corpus import main
from launch.command_line import output_folder

COMMAND = Path(__file__).parents[2] / "launch" / "build_corpus.py"


@pytest.fixture
def text(tmp_path) -> str:
    (tmp_path / "text.txt").write_text("天地\n玄黄\n天地\n宇宙\n", encoding="utf-8")
    return str(tmp_path / "text.txt")


def build(text: str, tokenizer: str, output: Path, *more: str) -> list[str]:
    return ["--input", text, "--format", "lines", "--tokenizer", tokenizer, "--output", str(output), *more]


def test_builds_then_finds_it_built_then_verifies(tmp_path, text, tokenizer, capsys):
    arguments = build(text, tokenizer, tmp_path / "out", "--licence", "MIT")
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[1].split()[:6] == ["text", "4", "3", "6", "1.000", "33.333"]
    assert "rejected  text: duplicate 1, e.g. text.txt:3" in table and "MB/s" in table
    assert main(arguments) == 0
    assert "already built" in capsys.readouterr().out
    for path in (tmp_path / "out", tmp_path / "out" / "manifest.json"):
        assert main(["--verify", str(path)]) == 0
        assert "verified: 1 blocks are intact" in capsys.readouterr().out


def test_verify_names_shard_and_block(tmp_path, text, tokenizer, capsys):
    assert main(build(text, tokenizer, tmp_path / "out")) == 0
    shard = tmp_path / "out" / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert main(["--verify", str(tmp_path / "out")]) == 1
    assert "shard-00000.bin: block 0: the checksum does not match" in capsys.readouterr().out
    shard.unlink()
    assert main(["--verify", str(tmp_path / "out")]) == 2
    assert "error: " in (err := capsys.readouterr().err) and "shard-00000.bin: the shard is missing" in err


def test_a_file_with_flags_over_it(tmp_path, text, tokenizer, capsys):
    source = {"name": "s", "format": "wiki2019zh", "inputs": [text], "licence": "MIT"}
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"sources": [source], "tokenizer": tokenizer, "output": "nowhere"}))
    output = str(tmp_path / "out")
    assert main(["--config", str(config), "--format", "lines", "--output", output]) == 0
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"][0]
    assert (record["name"], record["format"], record["licence"]) == ("s", "lines", "MIT")


def test_set_overrides_keys_of_the_configuration(tmp_path, text, tokenizer):
    assert (
        main([*build(text, tokenizer, tmp_path / "out"), "--set", "near_duplicates={}", "sources.0.licence=MIT"]) == 0
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["near_duplicates"] == {"jaccard": 0.7} and manifest["sources"][0]["licence"] == "MIT"


def test_the_manifest_holds_no_machine_path_of_an_input(tmp_path, text, tokenizer):
    assert main(build(text, tokenizer, tmp_path / "out")) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [item["name"] for item in manifest["sources"][0]["inputs"]] == ["text.txt"]
    assert str(tmp_path) not in json.dumps(manifest["sources"])


def test_errors_are_a_line_and_exit_2(tmp_path, text, tokenizer, capsys):
    assert main(["--verify", str(tmp_path)]) == 2
    assert "error: " in (err := capsys.readouterr().err) and "there is no manifest" in err
    assert main(build(str(tmp_path / "none"), tokenizer, tmp_path / "out")) == 2
    assert "none: no such file or folder" in capsys.readouterr().err
    assert main(["--verify", str(tmp_path), "--output", "x", "--licence", "MIT"]) == 2
    assert "error: --verify builds nothing and takes no other flags, got licence, output" in capsys.readouterr().err
    assert main(["--input", text]) == 2
    err = capsys.readouterr().err
    assert "command line: " in err
    assert all(
        key in err
        for key in ("sources.0.format", "tokenizer: required, and not given", "output: required, and not given")
    )


def test_an_unwritable_output_is_reported(tmp_path, text, tokenizer, capsys):
    (tmp_path / "file").touch()
    assert main(build(text, tokenizer, tmp_path / "file/out")) == 2
    message = f"error: output folder {tmp_path / 'file'}: cannot be written: File exists\n"
    assert capsys.readouterr().err == message


def test_a_finished_corpus_may_be_on_a_read_only_disk(tmp_path, text, tokenizer, capsys, monkeypatch):
    assert main(build(text, tokenizer, tmp_path / "out")) == 0
    monkeypatch.setattr(output_folder, "TemporaryFile", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    assert main(build(text, tokenizer, tmp_path / "out")) == 0 and "already built" in capsys.readouterr().out
    assert main(build(text, tokenizer, tmp_path / "other")) == 2
    assert "cannot be written: Read-only file system" in capsys.readouterr().err


def test_warnings_are_a_line(tmp_path, tokenizer, capsys):
    (tmp_path / "a.txt").write_text("天\n天\n天\n", encoding="utf-8")
    assert main(build(str(tmp_path / "a.txt"), tokenizer, tmp_path / "out")) == 0
    assert "warning: a: 2 of 3 documents rejected (duplicate 2), e.g. a.txt:2, a.txt:3\n" in capsys.readouterr().err


@pytest.mark.job
def test_runs_from_anywhere(tmp_path, text, tokenizer):
    command = [sys.executable, str(COMMAND), *build(text, tokenizer, tmp_path / "out")]
    settings = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "timeout": 240}
    done = subprocess.run(command, **settings)
    assert done.returncode == 0 and "built" in done.stdout, done.stderr
    again = subprocess.run([*command, "--colour", "red"], **settings)
    assert again.returncode == 2 and "unrecognized arguments: --colour red" in again.stderr


def test_explain_needs_no_tokenizer_and_builds_nothing(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("天（）地\nEnglish\n", encoding="utf-8")
    assert main(["--input", str(tmp_path / "a.txt"), "--format", "lines", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "a: 2 documents in, 1 keep every rule" in out and "a.txt:1: '天（）地' -> '天地'" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_steps_as_a_scheduler_calls_them(tmp_path, text, tokenizer, capsys):
    arguments = build(text, tokenizer, tmp_path / "out")
    assert main([*arguments, "--match"]) == 2
    assert "out.partial: no build is planned here" in capsys.readouterr().err
    assert not (tmp_path / "out.partial").exists()
    assert main([*arguments, "--plan"]) == 0
    assert "1 units, 0 to 0" in capsys.readouterr().out
    for step in (["--read-unit", "0"], ["--match"], ["--encode-unit", "0"], ["--finish"]):
        assert main([*arguments, *step]) == 0
    assert "fingerprint" in capsys.readouterr().out and (tmp_path / "out" / "manifest.json").is_file()
    assert main([*arguments, "--plan"]) == 0
    assert "already built" in capsys.readouterr().out
    assert main([*arguments, "--workers", "0"]) == 2
    assert "--workers is 0, but must be at least 1" in capsys.readouterr().err


def test_jobs_of_an_array_share_the_units_among_them(tmp_path, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr("corpus.building.plan.UNIT_BYTES", 16)
    (tmp_path / "a.txt").write_text("天地玄黄\n" * 8, encoding="utf-8")
    arguments = build(str(tmp_path / "a.txt"), tokenizer, tmp_path / "out")
    assert main([*arguments, "--plan"]) == 0
    num_units = int(capsys.readouterr().out.split()[0])
    assert num_units > 4
    counts = {}
    for flag, step in {"--read-unit": "read", "--encode-unit": "encoded"}.items():
        for job in range(4):
            assert main([*arguments, flag, f"{job}/4"]) == 0
        assert len(list((tmp_path / "out.partial").glob(f"{step}-*"))) == num_units
        counts[step] = [int(line.removeprefix("units done: ")) for line in capsys.readouterr().out.splitlines()]
        assert step == "encoded" or main([*arguments, "--match"]) == 0
    assert counts["read"] == counts["encoded"] == [len(range(num_units)[job::4]) for job in range(4)]
    assert main([*arguments, "--encode-unit", "98/99"]) == 0  # more jobs than units
    assert capsys.readouterr().out == "units done: 0\n"
    assert main([*arguments, "--finish"]) == 0


@pytest.mark.parametrize("units", ["x", "4/4", "5/4", "0/0", "1/", "1/2/3", "-1"])
def test_invalid_units_are_refused(tmp_path, text, tokenizer, capsys, units):
    for flag in ("--read-unit", "--encode-unit"):
        assert main([*build(text, tokenizer, tmp_path / "out"), flag, units]) == 2
        message = f"{flag} is {units}, but must be a unit K, or K/N for every N-th from K on, where K is 0 to N - 1"
        assert capsys.readouterr().err == f"error: {message}\n"


def names_of(capsys, *inputs: str, name: str | None = None) -> list[str]:
    arguments = ["--input", *inputs, "--format", "lines", "--explain", *(["--name", name] if name else [])]
    assert main(arguments) == 0
    return [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if "documents in" in line]


def test_every_input_is_a_source_named_after_it(tmp_path, capsys, monkeypatch):
    for name in ("a.txt", "b.v1.txt", "x/a.txt", "y/a.txt.gz.txt", "y/[z].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("天地玄黄\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert names_of(capsys, "a.txt", "b.v1.txt", "x") == ["a", "b", "x"]
    assert names_of(capsys, "x/*.txt", "y/**") == ["x", "y"]
    assert names_of(capsys, "*.txt", "y/[z].txt") == [tmp_path.name, "[z]"]
    assert names_of(capsys, "x/a.txt", "y/a.txt.gz.txt", "a.txt") == ["x-a", "y-a", f"{tmp_path.name}-a"]
    assert names_of(capsys, "a.txt", "b.v1.txt", name="all") == ["all"]
    assert names_of(capsys, ".") == [tmp_path.name]


def test_a_loop_of_links_is_no_file(tmp_path, tokenizer, capsys):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).symlink_to(other)
    assert main(build(str(tmp_path / "a"), tokenizer, tmp_path / "out")) == 2
    assert "a: a broken link or not a regular file" in capsys.readouterr().err


def test_inputs_whose_names_are_the_same_or_too_many_are_refused(tmp_path, capsys):
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text("天地玄黄\n", encoding="utf-8")
    inputs = [str(tmp_path / name) for name in ("a.txt", "a.jsonl")]
    assert main(["--input", *inputs, "--format", "lines", "--explain"]) == 2
    message = f"--input: {inputs[0]}, {inputs[1]} would be sources of the same name {tmp_path.name}-a; give --name"
    assert message in capsys.readouterr().err
    assert main(["--input", *[inputs[0]] * 101, "--format", "lines", "--explain"]) == 2
    assert "--input: 101 inputs would be as many sources, more than 100; give --name to make" in capsys.readouterr().err


def test_inputs_at_fault_are_skipped_and_named(tmp_path, tokenizer, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("天地玄黄\n宇宙洪荒\n", encoding="utf-8")
    (tmp_path / "data" / "b.gz").write_bytes(b"\x1f\x8b\x08 not gzip")
    arguments = build(str(tmp_path / "data"), tokenizer, tmp_path / "out")
    assert main(arguments) == 2 and "b.gz: cannot be read to its end" in capsys.readouterr().err
    assert main([*arguments, "--on-bad-input", "skip"]) == 0
    said = capsys.readouterr()
    assert "warning: data: 1 inputs at fault were skipped, at least in part: data/b.gz: cannot be read" in said.err
    assert "bad input  data: data/b.gz: cannot be read to its end" in said.out
    assert inspect_corpus.main([str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "bad input of  what is wrong\ndata          data/b.gz: cannot be read to its end" in shown
    assert main([*arguments, "--on-bad-input", "ignore"]) == 2
    assert "on_bad_input: Input should be 'stop' or 'skip', got \"ignore\"" in capsys.readouterr().err
