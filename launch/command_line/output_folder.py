"""Output folders that are complete or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from pretrain.durable import share, writing


def check_writable(folder: Path, what: str) -> None:
    """Make a folder if it does not exist. Raise ValueError if nothing can be written in it; `what` names it.

    Any number of processes on any hosts may do so at the same time.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{what} {folder}: cannot be written: {error.strerror}") from error


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which is renamed to `folder` if the block ends without an error.

    Raises ValueError if `folder` exists or cannot be made.
    """
    if folder.exists():
        raise ValueError(f"{folder}: already exists; remove it or choose another output folder")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder):
        partial.mkdir(parents=True)
    try:
        yield partial
        share(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
