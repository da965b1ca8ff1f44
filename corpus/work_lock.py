"""Who works in the work folder of a build: one process alone, or steps of single units together."""

import fcntl
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_NAME = "lock"


@contextmanager
def hold(work: Path, shared: bool = False) -> Iterator[None]:
    """Keeps others out of a work folder: all of them, or those that want it alone where it is shared.

    The lock goes with the process, however that ends. ValueError where others are in it already, or there is no such
    folder. A file system without locks is warned of.
    """
    lock = work / _NAME
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
    for path in sorted(work.iterdir(), key=lambda path: path.name == _NAME):
        remove(path)


def remove(path: Path) -> None:
    """A file, or a folder and all below it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
