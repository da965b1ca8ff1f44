"""The work folder of a build: its lock, and the results of its steps, each there whole or not at all."""

import errno
import fcntl
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeVar

from corpus.config import BuildConfig, Record
from corpus.durable import sync_file, sync_folder

_RECORD, _LOCK = "record.json", "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def work_folder(config: BuildConfig) -> Path:
    """Where a build keeps what is not finished: beside its output, with the suffix .partial."""
    output = Path(config.output)
    return output.with_name(output.name + ".partial")


class Result(Record):
    """What a unit's result says of itself. `key` is that of all it was made from."""

    key: str


_Result = TypeVar("_Result", bound=Result)


def load_result(kind: type[_Result], folder: Path, key: str) -> _Result | None:
    """The record of a committed folder; None if there is none, or one made from something else."""
    try:
        result = kind.model_validate_json((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return result if result.key == key else None


def save_result(folder: Path, build: Callable[[Path], _Result]) -> _Result:
    """Runs `build` on an empty folder, adds the record it returns, and puts the folder in its place.

    A kill leaves at most a folder with another name. Whoever does the same work at the same time does no harm.
    """
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        result = build(partial)
        (partial / _RECORD).write_text(result.model_dump_json(), encoding="utf-8")
        for file in partial.iterdir():
            sync_file(file)
        sync_folder(partial)
        if load_result(type(result), folder, result.key) is None:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                partial.rename(folder)
            except OSError:
                if load_result(type(result), folder, result.key) is None:
                    raise
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


@contextmanager
def hold(work: Path, shared: bool = False) -> Iterator[None]:
    """Keeps others out of a work folder: all of them, or those that want it alone where it is shared.

    The lock goes with the process, however that ends. ValueError where others are in it already, or there is no such
    folder. A file system without locks is warned of.
    """
    lock = work / _LOCK
    gone = f"{work}: no build is planned here, or another process has just finished it; make a plan with --plan"
    try:
        file = lock.open("a+")  # NFS locks alone what is open for writing, together what is open for reading
    except FileNotFoundError as error:
        raise ValueError(gone) from error
    with file:
        _lock(file, work, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if not lock.exists():  # cleared between the two lines above, so what is locked now keeps nobody out
            raise ValueError(gone)
        yield
    with suppress(OSError):  # is not empty, as long as the build goes on
        work.rmdir()


def _lock(file: TextIO, work: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{work}: another process is building here") from error
    except OSError as error:
        reason = f"its file system has no locks ({error.strerror})"
        warnings.warn(f"{work}: {reason}; see to it that one build runs there", stacklevel=4)


def clear(work: Path) -> None:
    """Removes all that is in a held folder, its lock last. The folder goes when it is let go of: NFS keeps one in
    which a file is open."""
    for path in sorted(work.iterdir(), key=lambda path: path.name == _LOCK):
        remove(path)


def remove(path: Path) -> None:
    """A file, or a folder and all below it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def explain_full_disk(work: Path) -> Iterator[None]:
    """ValueError that says what is kept where the disk under the work folder is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(work.parent).free / 1e6
        raise ValueError(
            f"{work}: the disk is full ({free:.0f} MB free now); the output is not begun and what is done is kept: "
            "free some space and run again to go on"
        ) from error
