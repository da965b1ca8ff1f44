"""Micro-batches on their way to the device, and the token counts by which means over a whole step divide.

Engines average gradients over micro-batches and ranks, so a sum over tokens that is divided by their mean number in a
micro-batch becomes the mean over all tokens of the step, however these are shared out.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.models.encoder import real_tokens

Batch = Mapping[str, Tensor]

_NAMES = ("num_real", "num_pairs", "num_labelled", "num_known", "num_ordered")
_LABELS = ("labels", "start_positions", "end_positions")
_IGNORED = -100


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device, without waiting for the copy to finish."""
    if device.type == "cpu":
        return batch
    # Contiguous first: a single zero expanded to all token types cannot be pinned.
    pinned = {name: tensor.contiguous().pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in pinned.items()}


def step_counts(batches: Sequence[Batch], device: torch.device) -> dict[str, Tensor]:
    """Return the mean number of tokens of each kind in a micro-batch of this step, float32 scalars on the device.

    `num_real`: real tokens; `num_pairs`: pairs of real tokens of a row, or of a document if batches have
    `document_ids`; `num_labelled`: labels that are not ignored; `num_known`: those of them that are known, and so not
    negative; `num_ordered`: pairs of texts whose order is asked. The mean is over all micro-batches of all ranks, so
    every rank must call it; nothing waits for the device.

    Args:
        batches: this rank's micro-batches of the step, on the CPU.
    """
    sums = torch.stack([_count(batch) for batch in batches]).sum(0).to(device, torch.float32)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size > 1:
        dist.all_reduce(sums)
    return dict(zip(_NAMES, (sums / (len(batches) * world_size)).unbind(), strict=True))


def _count(batch: Batch) -> Tensor:
    """Return the counts of one micro-batch, int64 [4]."""
    real = real_tokens(batch).long()
    documents = batch.get("document_ids", torch.zeros_like(real)).clamp(min=0)
    of_documents = torch.zeros_like(real).scatter_add_(1, documents, real)
    labels = [batch[name] for name in _LABELS if name in batch]
    labelled = sum(int((one != _IGNORED).sum()) for one in labels)
    known = sum(int((one >= 0).sum()) for one in labels)
    ordered = int((batch["order_labels"] != _IGNORED).sum()) if "order_labels" in batch else 0
    sums = real.sum(), of_documents.square().sum(), *map(torch.tensor, (labelled, known, ordered))
    return torch.stack(sums)
