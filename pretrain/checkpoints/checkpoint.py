"""Checkpoints: written aside, read back, synced, then renamed: a folder named step_N is whole, or known not to be.

checkpoints/latest                  the name of the newest, moved last
checkpoints/step_500/files.json     size and checksum of every file, written last
checkpoints/step_500/state.json     step and rows seen: all the data order needs
checkpoints/step_500/<student>/     see student_files.py

What is damaged is named and passed over, and never deleted.
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
from pretrain.durable import damage, seal, sync, write_durably, writing
from pretrain.engines.engine import Counters, StudentEngine
from pretrain.ranks.together import on_rank_zero, raise_together
from pretrain.settings import Count, Settings


class TrainingState(Settings):
    """Where a run stands. One integer, `rows`, is the whole state of the data."""

    step: Count
    rows: Count
    tokens: Count
    seconds: FiniteFloat


def checkpoint_folders(folder: Path) -> list[Path]:
    """Those that have a checkpoint's name, whole or not; what was set aside has another."""
    return [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]


class Checkpoints:
    """The checkpoints of one run folder, of which the newest `keep` whole ones stay."""

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / "checkpoints"
        self.keep = keep
        self._whole: set[Path] = set()  # checksums are looked at once a process, sizes whenever one may go

    def save(self, engines: Sequence[StudentEngine], state: TrainingState) -> None:
        """Write step_N beside the others, make it durable, point `latest` at it, and only then drop old ones.

        Every rank must call it. ValueError on every rank, naming the file, where it cannot be written: what was
        written of it is removed, and the checkpoints before it stand.
        """
        tensors = [engine.gather_tensors() for engine in engines]
        on_rank_zero(lambda: self._save(engines, tensors, state))

    def load(self, engines: Sequence[StudentEngine]) -> TrainingState:
        """Load what rank 0 finds as newest into every engine; the zero state when there is none.

        Every rank must call it. ValueError on every rank where one cannot read it, or it does not fit the students.
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
                    message = f"is at step {counters.steps}, the run at step {state.step}"
                    raise ValueError(f"{folder / engine.name}: {message}")
        except ValueError as error:
            raise_together(str(error))
            raise
        raise_together(None)
        for engine, (tensors, counters) in zip(engines, students, strict=True):
            engine.put_tensors(tensors, counters)
        return state

    def newest(self) -> Path | None:
        """The checkpoint `latest` names, or the newest whole one where that is gone or damaged, with a warning.

        None where there is no checkpoint at all; ValueError naming what is wrong with each where none is whole.
        """
        problems: list[str] = []
        for folder in self._by_preference():
            problem = damage(folder)
            if problem is None:
                for one in problems:
                    warnings.warn(f"{one}; passed over for {folder.name}", stacklevel=2)
                self._whole.add(folder)
                return folder
            problems.append(problem)
        if problems:
            raise ValueError("\n".join(["there are checkpoints, but none is whole:", *problems]))
        return None

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return [folder for folder in self._named() if self._is_whole(folder)]

    def _is_whole(self, folder: Path) -> bool:
        if damage(folder, checksums=folder not in self._whole):
            return False
        self._whole.add(folder)
        return True

    def _named(self) -> list[Path]:
        """What calls itself a checkpoint, oldest first."""
        found = checkpoint_folders(self.folder)
        return sorted(found, key=_step)

    def _by_preference(self) -> list[Path]:
        """What `latest` names first, then the others from the newest on."""
        found = self._named()[::-1]
        pointer = self.folder / "latest"
        if pointer.is_file():
            named = pointer.read_text(errors="replace")
            if found and named not in [path.name for path in found]:
                warnings.warn(f"{pointer}: names {named[:40]!r}, which is not there", stacklevel=2)
            found.sort(key=lambda path: path.name != named)  # stable
        return found

    def _restore_and_find(self) -> Path | None:
        self._restore()
        return self.newest()

    def _restore(self) -> None:
        """Where a kill came between the two renames that replace a checkpoint, the old one takes its place again."""
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
            kept = f"the checkpoint {before[0].name} is kept" if before else "there is no checkpoint before it"
            raise ValueError(f"{error}; step {state.step} is not saved, {kept}") from error
        with writing(final):
            self._put_in_place(partial, final)
        write_durably(self.folder / "latest", final.name)
        with writing(self.folder):
            self._prune(final)

    def _put_in_place(self, partial: Path, final: Path) -> None:
        """Rename; what has the name already goes aside, and for good where it is damaged."""
        if final.exists():
            aside = final.with_name(f".{final.name}.replaced")
            if not self._is_whole(final):
                numbered = (final.with_name(f"{final.name}.broken{number or ''}") for number in range(10**6))
                aside = next(path for path in numbered if not path.exists())
            final.rename(aside)
        partial.rename(final)
        sync(self.folder)
        self._whole.add(final)

    def _prune(self, newest: Path) -> None:
        """Keep the newest and the whole ones before it; renamed first, so that no kill leaves half of one."""
        others = [folder for folder in self.all() if folder != newest]
        for old in others[: len(others) - (self.keep - 1)] if len(others) >= self.keep else []:
            old.rename(old.with_name(f".{old.name}.old"))
        self._sweep()

    def _sweep(self) -> None:
        for leftover in self.folder.glob(".step_*"):
            try:
                shutil.rmtree(leftover)
            except OSError as error:  # no reason to stop a run
                warnings.warn(f"{leftover}: cannot be removed: {error.strerror or error}", stacklevel=2)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _read_student(checkpoint: Path, engine: StudentEngine) -> tuple[dict[str, Tensor], Counters]:
    folder = checkpoint / engine.name
    if not folder.is_dir():
        raise ValueError(f"{checkpoint}: holds no student {engine.name}")
    return read_tensors(engine.student, folder), read_counters(folder)


def read_state(checkpoint: Path) -> TrainingState:
    """state.json of one checkpoint; ValueError naming the file when it cannot be read."""
    path = checkpoint / "state.json"
    try:
        return TrainingState.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable training state: {error}") from error
