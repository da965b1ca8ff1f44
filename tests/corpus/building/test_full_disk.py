"""A build onto a real file system that fills up: one line, and the same corpus once there is room."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig

MOUNT = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run([*MOUNT, str(folder)]).returncode:
        pytest.skip("may not mount a small file system (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def config(tmp_path: Path, tokenizer: Path, output: Path) -> BuildConfig:
    source = {"name": "s", "format": "lines", "inputs": [str(tmp_path / "a.txt")], "cleaning": {"min_chinese_share": 0}}
    state = {"sources": [source], "tokenizer": str(tokenizer), "output": str(output), "near_duplicates": {}}
    return BuildConfig.model_validate_json(json.dumps(state))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_disk_that_fills_up(tmp_path, wordpiece, documents, small_disk, monkeypatch):
    """Room is added step by step, so that each step of the build runs out of it in turn."""
    monkeypatch.setattr("corpus.building.plan.UNIT_BYTES", 20_000)
    lines = [f"{text}{number}" for number, text in enumerate(documents * 8)]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    expected, _ = build_corpus(config(tmp_path, wordpiece, tmp_path / "out"), 1)
    asked = config(tmp_path, wordpiece, small_disk / "out")
    told, kilobytes, manifest = [], 256, None
    while manifest is None:
        try:
            manifest, _ = build_corpus(asked, 1)
        except ValueError as error:
            told.append(str(error))
            assert [item.name for item in small_disk.iterdir()] == ["out.partial"]
            kilobytes += 16
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
    start = f"{small_disk}/out.partial: the disk is full (0 MB free now); finished units are kept and no output was "
    assert len(told) > 3 and all(message.startswith(start) for message in told)
    assert manifest.fingerprint == expected.fingerprint
    assert content(small_disk / "out") == content(tmp_path / "out")
    assert [item.name for item in small_disk.iterdir()] == ["out"]
