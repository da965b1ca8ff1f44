"""A crash before any file operation of a save, damage to any file, and a disk that fills up."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.checkpoints.checkpoint import Checkpoints, TrainingState
from pretrain.durable import damage
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.engines.engine import StudentEngine
from pretrain.models.teacher import Teacher
from pretrain.ranks.process_group import start_distributed
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, student_config, teacher_model

_OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "fsync"}


class Crash(BaseException):
    """A kill: no handler of ours may catch it."""


class FileSystem:
    """Crashes before the file operation of a number, and then loses what of each file no sync had brought to disk."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.crash_at = self.count = 0
        self.synced: set[tuple[int, int]] = set()
        self._fsync = os.fsync

    def audit(self, event: str, arguments: tuple) -> None:
        if self.folder is None or event not in _OPERATIONS:
            return
        if event == "open" and isinstance(arguments[0], str) and not arguments[0].startswith(str(self.folder)):
            return  # a library's, such as an import; rmtree's have relative paths and are counted
        self._count()

    def fsync(self, descriptor: int) -> None:
        if self.folder:
            self._count()
            status = os.fstat(descriptor)
            self.synced.add((status.st_ino, status.st_size))
        self._fsync(descriptor)

    def _count(self) -> None:
        self.count += 1
        if self.count == self.crash_at:
            raise Crash

    def crash(self, folder: Path, crash_at: int, action) -> bool:
        """Whether the action was cut before the operation of this number."""
        before = {path.stat().st_ino for path in folder.rglob("*")}
        self.folder, self.crash_at, self.count = folder, crash_at, 0
        self.synced.clear()
        try:
            action()
        except Crash:
            self.folder = None
            for path in folder.rglob("*"):
                status = path.stat()
                if (
                    path.is_file()
                    and status.st_ino not in before
                    and (status.st_ino, status.st_size) not in self.synced
                ):
                    os.truncate(path, status.st_size // 2)
            return True
        finally:
            self.folder = None
        return False


_FILES = FileSystem()
sys.addaudithook(_FILES.audit)  # for good, but idle unless it has a folder


@pytest.fixture
def file_system(monkeypatch) -> FileSystem:
    monkeypatch.setattr(os, "fsync", _FILES.fsync)
    return _FILES


@pytest.fixture(scope="module")
def engine() -> StudentEngine:
    start_distributed()
    model, config = teacher_model(), student_config()
    student = build_student(config, model, seed=1)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    student.freeze_unreached(teacher)
    settings = {"train_batch_size": 3, "train_micro_batch_size_per_gpu": 3, "torch_autocast": {"enabled": False}}
    engine = StudentEngine(student, config, DeepSpeedConfig.model_validate(settings), 10, world_size=1)
    engine.train_micro_batch(batch(), teacher(batch()), seed=0)
    return engine


def save(run: Path, engine: StudentEngine, step: int, keep: int = 2) -> None:
    """A checkpoint whose first bias tells its step."""
    engine.engine.global_steps = step
    with torch.no_grad():
        next(iter(engine.student.parameters())).fill_(step)
    Checkpoints(run, keep).save([engine], TrainingState(step=step, rows=step, tokens=step, seconds=0.0))


def loaded_step(run: Path, engine: StudentEngine) -> int:
    """The step that is loaded; its bits are its own."""
    with torch.no_grad():
        next(iter(engine.student.parameters())).fill_(-1)
    state = Checkpoints(run, 2).load([engine])
    assert (next(iter(engine.student.parameters())) == state.step).all()
    return state.step


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_a_crash_at_any_file_operation_leaves_the_old_or_the_new_checkpoint(tmp_path, engine, file_system, again):
    """Of one checkpoint at most: saving step 3 with 2 there, which goes; or step 2 a second time."""
    base, step = tmp_path / "base", 2 if again else 3
    save(base, engine, 2, keep=1)
    seen, crash_at = set(), 0
    while True:
        crash_at += 1
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        cut = file_system.crash(run, crash_at, lambda run=run: save(run, engine, step, keep=1))
        seen.add(loaded_step(run, engine))
        save(run, engine, step, keep=1)
        assert loaded_step(run, engine) == step
        assert names(run) == {"latest", f"step_{step}"}
        if not cut:
            break
    assert crash_at > 40 and seen == {2, step}


def test_damage_to_any_file_is_named_and_passed_over(tmp_path, engine):
    for step in (1, 2):
        save(tmp_path, engine, step)
    newest = tmp_path / "checkpoints/step_2"
    files = [path for path in newest.rglob("*") if path.is_file()]
    assert {"files.json", "state.json", "training.json", "model.safetensors"} < {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        for broken in (flipped, data[:-1], data[:middle], b"", None):
            path.unlink()
            if broken is not None:
                path.write_bytes(broken)
            with pytest.warns(UserWarning, match=r"checkpoints/step_2/\S+: .*; using step_1 instead") as warned:
                assert loaded_step(tmp_path, engine) == 1
            assert path.name == "files.json" or str(path) in str(warned[0].message)
            path.write_bytes(data)
    (newest / "stranger").write_text("")
    with pytest.warns(UserWarning, match="stranger: is not one of the files that were written; using step_1 instead"):
        loaded_step(tmp_path, engine)
    (newest / "stranger").unlink()
    assert loaded_step(tmp_path, engine) == 2


def test_damaged_checkpoints_are_neither_deleted_nor_counted(tmp_path, engine):
    for step in (1, 2):
        save(tmp_path, engine, step)
    state = tmp_path / "checkpoints/step_2/state.json"
    state.write_text("lost")
    with pytest.warns(UserWarning, match="using step_1 instead"):
        assert loaded_step(tmp_path, engine) == 1
    save(tmp_path, engine, 2)  # the run comes by again
    save(tmp_path, engine, 2)
    assert names(tmp_path) == {"latest", "step_1", "step_2", "step_2.broken"}
    state.write_text("lost again")
    for step in (3, 4, 5):
        save(tmp_path, engine, step)
    assert names(tmp_path) == {"latest", "step_2", "step_2.broken", "step_4", "step_5"}
    assert (tmp_path / "checkpoints/step_2.broken/state.json").read_text() == "lost"


def test_a_run_does_not_begin_anew_where_every_checkpoint_is_damaged(tmp_path, engine):
    assert loaded_step_of_nothing(tmp_path / "new", engine) == 0
    for step in (1, 2):
        save(tmp_path, engine, step)
        (tmp_path / f"checkpoints/step_{step}/files.json").unlink()
    message = r"but none is complete:\n.*step_2/files\.json: .*No such file.*\n.*step_1/files\.json"
    with pytest.raises(ValueError, match=message):
        loaded_step(tmp_path, engine)


def loaded_step_of_nothing(run: Path, engine: StudentEngine) -> int:
    return Checkpoints(run, 2).load([engine]).step


def test_a_write_that_reads_back_differently_is_an_error(tmp_path, engine, monkeypatch):
    """What is read back is compared with what training holds."""
    from pretrain.checkpoints import student_files

    original = student_files.save_file

    def wrong(tensors, path):
        original({name: t + (name == "num_updates") for name, t in tensors.items()}, path)

    monkeypatch.setattr(student_files, "save_file", wrong)
    message = "num_updates was read back with other values than were written; step 1 was not saved, there is no earlier"
    with pytest.raises(ValueError, match=message):
        save(tmp_path, engine, 1)
    assert names(tmp_path) == set()


def shown(run: Path) -> set[str]:
    return {name for name in names(run) if not name.startswith(".")}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("may not mount a small file system (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_the_last_checkpoint_stays(small_disk, engine):
    """Room is made 4 kB at a time, so that every file of a checkpoint runs out of it in turn."""
    told, kilobytes = [], 64
    (small_disk / "checkpoints").mkdir()
    for step in (1, 2):
        while True:
            before = shown(small_disk)
            try:
                save(small_disk, engine, step)
                break
            except ValueError as error:
                told.append(str(error))
                if "/latest: " in told[-1]:
                    assert (small_disk / f"checkpoints/step_{step}").is_dir()  # whole, and found without it
                else:
                    assert shown(small_disk) == before
                assert step == 1 or loaded_step(small_disk, engine) == 1
                kilobytes += 4
                subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
    pattern = r"step_(\d)\S*partial\S*: cannot be written: .*No space left on device.*; step \1 was not saved, (.*)"
    assert len(told) > 8
    for message in told:
        found = re.search(pattern, message) or re.search("latest: cannot be written: ()()No space left", message)
        assert found and re.fullmatch("the checkpoint step_[12] is kept|there is no earlier checkpoint|", found[2])
    assert loaded_step(small_disk, engine) == 2


def test_a_seal_is_of_every_file(tmp_path, engine):
    save(tmp_path, engine, 1)
    folder = tmp_path / "checkpoints/step_1"
    assert damage(folder) is None
    stored = load_file(folder / "small/training.safetensors")
    assert stored["num_updates"].eq(1).all()
