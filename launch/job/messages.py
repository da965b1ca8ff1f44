"""What is said beside errors: a rank's warnings, each on a line with the rank, those of libraries from rank 0 only; and
nothing of what transformers reports."""

import logging
import os
import warnings
from pathlib import Path
from typing import TextIO

_OURS = [
    Path(__file__).resolve().parents[2] / name for name in ("corpus", "pretrain", "tasks", "launch", "bench", "tests")
]


def mute_transformers() -> None:
    """No bars of weights, no reports of a model that comes without its head or pooler: that is meant. Nor does every
    rank ask a service of the hub to convert a teacher that has no safetensors."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from transformers.utils import logging as transformers_logging  # takes seconds, after signals are noted

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def tag_messages(rank: int) -> None:
    """From here on every warning and log message of this process carries `[rank r]`."""
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
