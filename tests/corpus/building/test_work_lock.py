import errno
import fcntl
import os
from pathlib import Path

import pytest

from corpus.building.work_folder import clear, lock_folder


def test_one_alone_or_several_together(tmp_path):
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


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(ValueError, match=r"work: no build is planned here, .*; make a plan with --plan"):  # noqa: SIM117
        with lock_folder(tmp_path / "work"):
            pass
    assert not (tmp_path / "work").exists()


def test_a_lock_that_was_removed_before_it_was_ours_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (tmp_path / "lock").unlink())
    with pytest.raises(ValueError, match="or another process has just finished it"), lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = rf"{tmp_path}: its file system has no locks \({os.strerror(code)}\); see to it that one build runs there"
    with pytest.warns(UserWarning, match=said), lock_folder(tmp_path):
        (tmp_path / "done").touch()


def test_a_folder_is_cleared_while_it_is_held_and_goes_when_let_go_of(tmp_path):
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
