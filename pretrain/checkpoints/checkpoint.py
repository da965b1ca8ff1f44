"""Checkpoints: written to a temporary folder, verified, flushed to disk, then renamed to step_N.

checkpoints/latest                  the name of the newest checkpoint, written last
checkpoints/step_500/files.json     size and checksum of every file, written last of these
checkpoints/step_500/state.json     step and rows seen: all that the order of the data depends on
checkpoints/step_500/<student>/     see student_files.py

A folder named step_N is complete or is recognised as damaged. Damaged ones are reported, skipped and never deleted.
"""

import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from pydantic import FiniteFloat
from torch import Tensor

from pretrain.checkpoints.student_files import read_counters, read_tensors, save_student
from pretrain.durable import damage, move, seal, sync, write_durably, writing
from pretrain.engines.engine import Counters, StudentEngine
from pretrain.ranks.together import on_rank_zero, raise_together
from pretrain.settings import Count, Settings


class TrainingState(Settings):
    """How far a run has come. The number of `rows` seen determines which rows come next."""

    step: Count
    rows: Count
    tokens: Count
    seconds: FiniteFloat


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are named step_N, complete or not."""
    return [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: the run folder.
        keep: how many complete checkpoints to keep; older ones are deleted after a save.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / "checkpoints"
        self.keep = keep
        self._verified: set[Path] = set()  # their checksums are not compared again in this process, only their sizes

    def save(self, engines: Sequence[StudentEngine], state: TrainingState) -> None:
        """Write step_N, flush it to disk, point `latest` at it, and only then delete old checkpoints.

        Every rank must call it. Raise ValueError on every rank, naming the file, if it cannot be written: its files are
        then removed and the earlier checkpoints are kept.
        """
        tensors = [engine.gather_tensors() for engine in engines]
        on_rank_zero(lambda: self._save(engines, tensors, state))

    def load(self, engines: Sequence[StudentEngine]) -> TrainingState:
        """Load the newest checkpoint, as found by rank 0, into every engine; return its state, or zeros without one.

        Every rank must call it. Raise ValueError on every rank if one of them cannot read the checkpoint or it does not
        fit the students.
        """
        folder = on_rank_zero(self._restore_and_find)
        if folder is None:
            return TrainingState(step=0, rows=0, tokens=0, seconds=0.0)
        try:
            if dist.get_rank() and (problem := damage(folder)):
                raise ValueError(problem)
            state, students = read_state(folder), [_read_student(folder, engine) for engine in engines]
            for engine, (_, counters) in zip(engines, students, strict=True):
                if counters.steps != state.step:
                    message = f"is at step {counters.steps}, but the checkpoint is of step {state.step}"
                    raise ValueError(f"{folder / engine.name}: {message}")
        except ValueError as error:
            raise_together(str(error))
            raise
        raise_together(None)
        for engine, (tensors, counters) in zip(engines, students, strict=True):
            engine.put_tensors(tensors, counters)
        return state

    def newest(self) -> Path | None:
        """Return the checkpoint that `latest` names, or, with a warning, the newest complete one if that is damaged.

        Return None if there is no checkpoint. Raise ValueError listing what is wrong with each if none is complete.
        """
        problems: list[str] = []
        for folder in self._by_preference():
            problem = damage(folder)
            if problem is None:
                for one in problems:
                    warnings.warn(f"{one}; using {folder.name} instead", stacklevel=2)
                self._verified.add(folder)
                return folder
            problems.append(problem)
        if problems:
            raise ValueError("\n".join(["there are checkpoints, but none is complete:", *problems]))
        return None

    def all(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return [folder for folder in self._by_age() if self._is_complete(folder)]

    def _is_complete(self, folder: Path) -> bool:
        if damage(folder, checksums=folder not in self._verified):
            return False
        self._verified.add(folder)
        return True

    def _by_age(self) -> list[Path]:
        """Return the folders named step_N, complete or not, oldest first."""
        found = checkpoint_folders(self.folder)
        return sorted(found, key=_step)

    def _by_preference(self) -> list[Path]:
        """Return the folder that `latest` names, then the others, newest first."""
        found = self._by_age()[::-1]
        pointer = self.folder / "latest"
        if pointer.is_file():
            named = pointer.read_text(errors="replace")
            if found and named not in [path.name for path in found]:
                warnings.warn(f"{pointer}: names {named[:40]!r}, which does not exist", stacklevel=2)
            found.sort(key=lambda path: path.name != named)  # stable
        return found

    def _restore_and_find(self) -> Path | None:
        self._restore()
        return self.newest()

    def _restore(self) -> None:
        """Put an old checkpoint back if a kill came between the two renamings that replace it."""
        for replaced in self.folder.glob(".step_*.replaced"):
            original = self.folder / replaced.name[1:].removesuffix(".replaced")
            if not original.exists():
                replaced.rename(original)
                sync(self.folder)

    def _save(
        self, engines: Sequence[StudentEngine], tensors: Sequence[dict[str, Tensor]], state: TrainingState
    ) -> None:
        final = self.folder / f"step_{state.step}"
        partial = self.folder / f".{final.name}.partial"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._restore()
            self._sweep()
            partial.mkdir()
        try:
            for engine, own in zip(engines, tensors, strict=True):
                save_student(engine.student, own, engine.counters, partial / engine.name)
            write_durably(partial / "state.json", state.model_dump_json())
            seal(partial)
        except ValueError as error:
            shutil.rmtree(partial, ignore_errors=True)
            before = self.all()[-1:]
            kept = f"the checkpoint {before[0].name} is kept" if before else "there is no earlier checkpoint"
            raise ValueError(f"{error}; step {state.step} was not saved, {kept}") from error
        with writing(final):
            self._put_in_place(partial, final)
        write_durably(self.folder / "latest", final.name)
        with writing(self.folder):
            self._prune(final)

    def _put_in_place(self, partial: Path, final: Path) -> None:
        """Rename `partial` to `final`. An existing `final` is renamed first, and kept if it is damaged."""
        if final.exists():
            old = final.with_name(f".{final.name}.replaced")
            if not self._is_complete(final):
                numbered = (final.with_name(f"{final.name}.broken{number or ''}") for number in range(10**6))
                old = next(path for path in numbered if not path.exists())
            final.rename(old)
        move(partial, final)
        sync(self.folder)
        self._verified.add(final)

    def _prune(self, newest: Path) -> None:
        """Delete old complete checkpoints; they are renamed first, so that a kill leaves none half deleted."""
        others = [folder for folder in self.all() if folder != newest]
        for old in others[: len(others) - (self.keep - 1)] if len(others) >= self.keep else []:
            old.rename(old.with_name(f".{old.name}.old"))
        self._sweep()

    def _sweep(self) -> None:
        for leftover in self.folder.glob(".step_*"):
            try:
                shutil.rmtree(leftover)
            except OSError as error:  # not worth stopping a run for
                warnings.warn(f"{leftover}: cannot be removed: {error.strerror or error}", stacklevel=2)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _read_student(checkpoint: Path, engine: StudentEngine) -> tuple[dict[str, Tensor], Counters]:
    folder = checkpoint / engine.name
    if not folder.is_dir():
        raise ValueError(f"{checkpoint}: contains no student {engine.name}")
    return read_tensors(engine.student, folder), read_counters(folder)


def read_state(checkpoint: Path) -> TrainingState:
    """Read a checkpoint's state.json. Raise ValueError naming the file if it cannot be read."""
    path = checkpoint / "state.json"
    try:
        return TrainingState.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable training state: {error}") from error
