"""A prompt that stands before every text, such as the "query: " of E5."""

import torch

from corpus.rows.masking import IGNORED
from corpus.rows.read_ahead import Batch


def insert_prompt(batch: Batch, prompt: torch.Tensor) -> Batch:
    """Return a batch of single texts whose rows `CLS text SEP` have become `CLS prompt text SEP`, [B, L + P].

    Args:
        batch: as from `RowStream.batches`; tensors of one dimension stay as they are.
        prompt: ids, int64 [P]. A prompt is never masked.
    """
    if not len(prompt):
        return batch
    return {name: _widened(name, values, prompt) if values.dim() == 2 else values for name, values in batch.items()}


def _widened(name: str, values: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    first, rest = values[:, :1], values[:, 1:]
    between = first.expand(-1, len(prompt))  # of masks, types and documents: as at the CLS
    if name == "input_ids":
        between = prompt.to(values.device).expand(len(values), -1)
    elif name == "labels":
        between = torch.full_like(between, IGNORED)
    elif name == "position_ids":
        between = torch.arange(1, len(prompt) + 1, device=values.device).expand(len(values), -1)
        rest = torch.where(rest > 0, rest + len(prompt), rest)  # padding stays at 0
    return torch.cat([first, between, rest], dim=1)
