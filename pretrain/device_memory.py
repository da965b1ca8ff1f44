"""A device that is full: what to change is said, not only that it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def explain_out_of_memory(batch: Mapping[str, Tensor]) -> Iterator[None]:
    """ValueError that names the key to change where the device has no room for this micro-batch [B, L]."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows, tokens = batch["input_ids"].shape
        cure = (
            f"set deepspeed.train_micro_batch_size_per_gpu to {rows // 2} or less: steps stay the same, in more parts"
            if rows > 1
            else "one row at a time is the least, so shorter rows (corpus.row_tokens) or a larger GPU are needed"
        )
        first = str(error).split(". ")[0]
        raise ValueError(f"out of memory with {rows} rows of {tokens} tokens at once; {cure} ({first})") from error
