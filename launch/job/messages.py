"""Warnings and log messages of a rank: each on a line with the rank's number; those of libraries from rank 0 only."""

import logging
import os
import warnings
from pathlib import Path
from typing import TextIO

_OURS = [
    Path(__file__).resolve().parents[2] / name for name in ("corpus", "pretrain", "tasks", "launch", "bench", "tests")
]


def mute_transformers() -> None:
    """Switch off transformers' progress bars and its reports of missing heads or poolers, which are expected.

    Also keep every rank from asking the hub to convert a teacher without safetensors.
    """
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from transformers.utils import logging as transformers_logging  # takes seconds: after signals are handled

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def tag_messages(rank: int) -> None:
    """Start every further warning and log message of this process with `[rank r]`."""
    logging.basicConfig(format=f"[rank {rank}] %(message)s", level=logging.WARNING, force=True)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        folders = Path(filename).resolve().parents
        if any(folder in folders for folder in _OURS):
            logging.warning("%s", message)
        elif rank == 0:
            logging.warning("%s: %s", category.__name__, message)

    warnings.showwarning = show
