"""The work folder of a build: its lock, and the results of its steps, each written atomically."""

import errno
import fcntl
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeVar

from corpus.config import BuildConfig, StrictModel
from corpus.durable import move, sync_file, sync_folder

_RECORD, _LOCK = "record.json", "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def work_folder(config: BuildConfig) -> Path:
    """Return the folder for unfinished work: the output folder's path with the suffix .partial."""
    output = Path(config.output)
    return output.with_name(output.name + ".partial")


class Result(StrictModel):
    """The record of a step's result. `key` is a hash of everything that the result depends on."""

    key: str


_Result = TypeVar("_Result", bound=Result)


def load_result(kind: type[_Result], folder: Path, key: str) -> _Result | None:
    """Load the record of a result folder; None if there is none, or it has another key."""
    try:
        result = kind.model_validate_json((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return result if result.key == key else None


def save_result(folder: Path, build: Callable[[Path], _Result]) -> _Result:
    """Run `build` on an empty folder, add the record that it returns, and rename the folder into place.

    A kill leaves at most a temporary folder. Several processes may save the same result at the same time.
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
                move(partial, folder)
            except OSError:
                if load_result(type(result), folder, result.key) is None:
                    raise
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


@contextmanager
def lock_folder(work: Path, shared: bool = False) -> Iterator[None]:
    """Lock a work folder, exclusively or shared. The lock ends with the process, however that ends.

    Raises ValueError if another process holds a conflicting lock, or the folder does not exist. Warns if the file
    system has no locks.
    """
    lock = work / _LOCK
    gone = f"{work}: no build is planned here, or another process has just finished it; make a plan with --plan"
    try:
        file = lock.open("a+")  # NFS needs a file open for writing to lock exclusively, for reading to lock shared
    except FileNotFoundError as error:
        raise ValueError(gone) from error
    with file:
        _lock(file, work, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if not lock.exists():  # cleared between the two lines above: this lock would keep nobody out
            raise ValueError(gone)
        yield
    with suppress(OSError):  # not empty unless the build has finished
        work.rmdir()


def _lock(file: TextIO, work: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{work}: another process is building here") from error
    except OSError as error:
        reason = f"its file system has no locks ({error.strerror})"
        warnings.warn(f"{work}: {reason}; make sure that only one build runs there", stacklevel=4)


def clear(work: Path) -> None:
    """Empty a locked work folder, the lock file last.

    `lock_folder` removes the folder itself at its end: NFS keeps a folder in which a file is open.
    """
    for path in sorted(work.iterdir(), key=lambda path: path.name == _LOCK):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder and everything below it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def explain_full_disk(work: Path) -> Iterator[None]:
    """Turn the OSError of a full disk into a ValueError that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(work.parent).free / 1e6
        raise ValueError(
            f"{work}: the disk is full ({free:.0f} MB free now); finished units are kept and no output was written: "
            "free some space and run the same command again to go on"
        ) from error
