"""A prompt that stands before every text, such as the "query: " of E5."""

import torch

from corpus.rows.masking import IGNORED
from corpus.rows.packing import Frame
from corpus.rows.read_ahead import Batch


def insert_prompt(batch: Batch, prompt: torch.Tensor, frame: Frame) -> Batch:
    """Return a batch of single texts whose rows `CLS text SEP` have become `CLS prompt text SEP`, [B, L + P].

    Rows without text (`CLS SEP`, in place of damaged blocks) get none.

    Args:
        batch: as from `RowStream.batches`; tensors that are not of two dimensions stay as they are.
        prompt: ids, int64 [P]. A prompt is never masked.
        frame: what stands before and after a text.
    """
    if not len(prompt):
        return batch
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    is_empty = mask.sum(1, keepdim=True) <= frame.num_tokens
    widened = {}
    for name, values in batch.items():
        if values.dim() == 2:
            as_before = torch.cat([values, values[:, -1:].expand(-1, len(prompt))], dim=1)
            values = torch.where(is_empty, as_before, _widened(name, values, mask.bool(), prompt, len(frame.before)))
        widened[name] = values
    return widened


def _widened(
    name: str, values: torch.Tensor, real: torch.Tensor, prompt: torch.Tensor, num_before: int
) -> torch.Tensor:
    first, rest = values[:, :num_before], values[:, num_before:]
    between = values[:, :1].expand(-1, len(prompt))  # of masks, types and documents: as at the row's first token
    if name == "input_ids":
        between = prompt.to(values.device).expand(len(values), -1)
    elif name == "labels":
        between = torch.full_like(between, IGNORED)
    elif name == "position_ids":
        between = torch.arange(num_before, num_before + len(prompt), device=values.device).expand(len(values), -1)
        rest = torch.where(real[:, num_before:], rest + len(prompt), rest)  # padding stays at 0
    return torch.cat([first, between, rest], dim=1)
