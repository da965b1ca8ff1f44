import errno
import fcntl
import os
from pathlib import Path

import pytest

from corpus.building.work_folder import clear, lock_folder


def test_locks_are_exclusive_or_shared(tmp_path):
    for first, second in ((False, False), (False, True), (True, False)):
        with (
            lock_folder(tmp_path, shared=first),
            pytest.raises(ValueError, match=f"{tmp_path}: another process is building here"),
            lock_folder(tmp_path, shared=second),
        ):
            pass
    with lock_folder(tmp_path, shared=True), lock_folder(tmp_path, shared=True):
        pass
    with lock_folder(tmp_path):
        pass


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(ValueError, match=r"work: no build is planned here, .*; make a plan with --plan"):  # noqa: SIM117
        with lock_folder(tmp_path / "work"):
            pass
    assert not (tmp_path / "work").exists()


def test_a_lock_file_removed_before_it_was_locked_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (tmp_path / "lock").unlink())
    with pytest.raises(ValueError, match="or another process has just finished it"), lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_warns(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = (
        rf"{tmp_path}: its file system has no locks \({os.strerror(code)}\); make sure that only one build runs there"
    )
    with pytest.warns(UserWarning, match=message), lock_folder(tmp_path):
        (tmp_path / "done").touch()


def test_a_folder_is_cleared_while_locked_and_removed_when_unlocked(tmp_path):
    work = tmp_path / "work"
    (work / "read-00000").mkdir(parents=True)
    (work / "read-00000" / "record.json").touch()
    with lock_folder(work):
        clear(work)
        assert list(work.iterdir()) == []
    assert not work.exists()


def test_a_folder_in_which_nfs_keeps_the_open_lock_can_be_cleared(tmp_path, monkeypatch):
    """There a file that is removed while it is open gets another name until it is closed."""
    work = tmp_path / "work"
    work.mkdir()
    unlink = Path.unlink
    with lock_folder(work):
        monkeypatch.setattr(Path, "unlink", lambda path: path.rename(path.with_name(".nfs01")))
        clear(work)
        monkeypatch.undo()
        unlink(work / ".nfs01")  # a client does so itself when the lock is closed
    assert not work.exists()
