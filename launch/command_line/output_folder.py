"""Output folders that are complete or absent."""

from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryFile

from pretrain.durable import new_folder


def check_writable(folder: Path, what: str) -> None:
    """Make a folder if it does not exist. Raise ValueError if nothing can be written in it; `what` names it.

    Any number of processes on any hosts may do so at the same time.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{what} {folder}: cannot be written: {error.strerror}") from error


def new_output_folder(folder: Path) -> AbstractContextManager[Path]:
    """An empty folder to fill, which is renamed to `folder` if the block ends without an error.

    Raises ValueError if `folder` exists or cannot be made.
    """
    if folder.exists():
        raise ValueError(f"{folder}: already exists; remove it or choose another output folder")
    return new_folder(folder)
