"""A task model ready to predict: loaded, checked against its task, and moved to the device."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from launch.command_line.fingerprints import tokenizer_of
from pretrain.models.encoder import Encoder, Reads, without_padding
from pretrain.models.pretrained import load_pretrained, read_shape
from pretrain.precision import Dtype, autocast
from pretrain.progress import say
from tasks.config import TaskConfig
from tasks.kinds.registry import KINDS
from tasks.models import check_head, load_task_model
from tasks.rows import Tokenizer


class Predictor:
    """A task model and its tokenizer.

    Args:
        path: folder or hub id of a model with a head for the task.
        dtype: the type to compute in.

    Raises:
        ValueError: if it cannot be loaded, has a head for another task or other labels, or too few positions.
    """

    def __init__(self, path: str, task: TaskConfig, dtype: Dtype, device: torch.device) -> None:
        self.task, self.dtype, self.device = task, dtype, device
        tokenizer_of(path)
        if task.row_tokens > (most := read_shape(path, needs_layers=False).max_row_tokens):
            raise ValueError(f"{path}: has {most} positions, but {task.name} needs {task.row_tokens} (task.row_tokens)")
        self.labels = labels_of(path, task)
        check_head(path, task.kind, self.labels)
        model = load_task_model(path, task.kind, self.labels, 0, needs_head=True)
        self.encoder = Encoder(model.eval().to(device), Reads(logits=True))
        self.tokenizer: Tokenizer = load_pretrained(AutoTokenizer, path)

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of a batch, as tasks.evaluation.predict wants them."""
        on_device = {name: tensor.to(self.device) for name, tensor in without_padding(batch).items()}
        with autocast(self.device, self.dtype):
            logits = self.encoder(on_device).logits
        assert logits is not None
        return logits


def labels_of(path: str, task: TaskConfig) -> tuple[str, ...]:
    """Return the labels of the task: those configured, of its training file, or, where that is missing, of the model.

    Raise ValueError if none of them names any.
    """
    kind = KINDS[task.kind]
    if not kind.outputs(("label",)):
        return ()
    config = load_pretrained(AutoConfig, path)
    names: Sequence[str] = [config.id2label[index] for index in sorted(config.id2label)]
    labels = kind.labels_of(names)
    if task.labels or Path(task.train).is_file():
        wanted = kind.read_labels(task)
        return labels if sorted(labels) == sorted(wanted) else wanted  # in the order of the head
    if not labels or names == [f"LABEL_{index}" for index in range(len(names))]:
        raise ValueError(f"{path}: its head has no names for the labels of {task.name}; give task.labels, in its order")
    say(f"labels: those of {path}, since there is no {task.train}: {', '.join(labels)}")
    return labels
