"""An output folder that stands whole or not at all."""

from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryFile

from pretrain.durable import new_folder


def check_writable(folder: Path, what: str) -> None:
    """Make a folder where there is none; ValueError, naming what it is, where nothing can be written in it.

    Any number of processes of any hosts may do so at once.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{what} {folder}: cannot be written: {error.strerror}") from error


def new_output_folder(folder: Path) -> AbstractContextManager[Path]:
    """An empty folder to fill, which becomes `folder` if the block ends without an error.

    Raises ValueError if `folder` exists already or cannot be made.
    """
    if folder.exists():
        raise ValueError(f"{folder}: is there already; remove it or choose another output folder")
    return new_folder(folder)
