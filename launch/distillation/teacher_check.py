"""The teacher's features and head looked at once, on the first rows of a new run, before the first step."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from corpus.rows.masking import Masker, MaskingSettings
from corpus.rows.stream import RowStream
from corpus.shards.manifest import Manifest
from launch.distillation.config import RunConfig
from pretrain.models.encoder import without_padding
from pretrain.models.teacher import Teacher
from pretrain.probes.teacher_check import HeadScore, check_features
from pretrain.progress import Progress

_TOKENS, _PASSES = 8192, 4  # at once, and times for a head, whose masked tokens are a seventh of all


@Progress("checking the teacher")
def check_teacher_on_text(
    config: RunConfig, manifest: Manifest, stream: RowStream, teacher: Teacher, micro_rows: int, device: torch.device
) -> HeadScore | None:
    """Run the teacher on the first rows, warn of what is degenerate, and return the score of its head, if it is read.

    Raise ValueError for features that are not finite. Reads rows anew, so that training's are what they were.
    """
    rows = min(micro_rows, max(1, _TOKENS // config.corpus.row_tokens))
    passes = _PASSES if teacher.head else 1
    masker = None
    if teacher.head and not config.corpus.masking and manifest.tokenizer.mask_token_id is not None:
        masker = Masker(manifest, MaskingSettings(), config.corpus.seed)
    with closing(stream.batches(0, rows)) as batches:
        score, remarks = check_features(teacher, _on_device(islice(batches, passes), masker, device))
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    if score:
        print(f"[rank 0] the teacher's masked-language head predicts {score}", file=sys.stderr, flush=True)
    return score


def _on_device(
    batches: Iterator[Mapping[str, Tensor]], masker: Masker | None, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches on the device, masked if `masker` is given: their own have no masks."""
    for index, batch in enumerate(batches):
        given = without_padding(batch)
        if masker:
            ids = given["input_ids"].numpy()
            masked, labels = masker.mask(ids, np.arange(len(ids)) + index * len(ids))
            given |= {"input_ids": torch.from_numpy(masked), "labels": torch.from_numpy(labels)}
        yield {name: tensor.to(device) for name, tensor in given.items()}
