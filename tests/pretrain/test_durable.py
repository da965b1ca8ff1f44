"""Disks that lack fsync or rename: a warning, or a message that says what to do."""

import errno
import os
from pathlib import Path

import pytest

from pretrain import durable
from pretrain.durable import damage, new_folder, seal, write_durably


@pytest.fixture(autouse=True)
def _warn_again():
    durable._warn_once.cache_clear()


def fail(code):
    def operation(*_):
        raise OSError(code, os.strerror(code))

    return operation


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM])
def test_a_disk_that_cannot_flush_is_used_with_one_warning(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fail(code))
    with pytest.warns(UserWarning) as warned:
        write_durably(tmp_path / "a.json", "1")
        with new_folder(tmp_path / "b") as folder:
            (folder / "c").write_bytes(b"2")
            seal(folder)
    first = f"its file system cannot flush files and folders ({os.strerror(code)}); after a power cut the newest may be"
    assert first in str(warned[0].message) and len({str(one.message) for one in warned}) == len(warned) <= 4
    assert (tmp_path / "a.json").read_bytes() == b"1" and damage(tmp_path / "b") is None


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EXDEV])
def test_a_disk_that_cannot_rename_is_refused(tmp_path, monkeypatch, code):
    monkeypatch.setattr(Path, "replace", fail(code))
    wanted = (
        rf"a: cannot be written: its file system cannot rename files and folders \({os.strerror(code)}\): use a fold"
    )
    with pytest.raises(ValueError, match=wanted):
        write_durably(tmp_path / "a", "1")
    with pytest.raises(ValueError, match=wanted), new_folder(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_failures_of_the_disk_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail(errno.EIO))
    with pytest.raises(ValueError, match="a: cannot be written: Input/output error"):
        write_durably(tmp_path / "a", "1")
    monkeypatch.undo()
    (tmp_path / "b" / "c").mkdir(parents=True)
    with pytest.raises(ValueError, match="b: cannot be written: Directory not empty"), new_folder(tmp_path / "b"):
        pass
