"""An output folder that stands whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill under another name, which becomes `folder` where the block ends without an error.

    Raises ValueError where `folder` is there already.
    """
    if folder.exists():
        raise ValueError(f"{folder}: is there already; remove it or choose another output folder")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
