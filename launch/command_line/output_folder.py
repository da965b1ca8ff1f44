"""An output folder that stands whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from pretrain.durable import share, writing


def check_writable(folder: Path, what: str) -> None:
    """Make a folder where there is none; ValueError, naming what it is, where nothing can be written in it.

    Any number of processes of any hosts may do so at once.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{what} {folder}: cannot be written: {error.strerror}") from error


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill under another name, which becomes `folder` where the block ends without an error.

    Raises ValueError where `folder` is there already, or cannot be made.
    """
    if folder.exists():
        raise ValueError(f"{folder}: is there already; remove it or choose another output folder")
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
