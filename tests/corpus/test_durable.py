"""Disks that lack fsync or rename: a warning, or a message that says what to do."""

import errno
import os
from pathlib import Path

import pytest

from corpus import durable
from corpus.building.work_folder import Result, load_result, save_result
from corpus.durable import write_durably


@pytest.fixture(autouse=True)
def _warn_again():
    durable._warn_once.cache_clear()


def fail(code):
    def operation(*_):
        raise OSError(code, os.strerror(code))

    return operation


def save(folder):
    return save_result(folder, lambda partial: (partial / "a").write_bytes(b"1") and Result(key="k"))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM])
def test_a_disk_that_cannot_flush_is_used_with_a_warning(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fail(code))
    with pytest.warns(UserWarning, match=rf"cannot flush files and folders \({os.strerror(code)}\); after a power cut"):
        write_durably(tmp_path / "a", b"1")
        save(tmp_path / "result")
    assert (tmp_path / "a").read_bytes() == b"1" and load_result(Result, tmp_path / "result", "k")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_a_disk_that_cannot_rename_is_refused(tmp_path, monkeypatch, code):
    monkeypatch.setattr(Path, "replace", fail(code))
    wanted = r"its file system cannot rename files and folders \(.*\): use a folder on another one: '.*/(a|result)'"
    with pytest.raises(OSError, match=wanted):
        write_durably(tmp_path / "a", b"1")
    with pytest.raises(OSError, match=wanted):
        save(tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_other_failures_of_the_disk_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(tmp_path / "a", b"1")
