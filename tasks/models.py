"""Task models: a Hugging Face encoder, or the LSTM of tasks/bilstm.py, with the head for a kind of task."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig

from pretrain.models.pretrained import load_model, load_pretrained
from pretrain.students.initialization import seeded
from tasks.bilstm import BiLSTMConfig
from tasks.kinds.registry import KINDS

TaskModel = Any  # a model of one of these classes
# Suffixes of the class names of models with a task's head
_HEADS = {name: kind.auto_class.__name__.removeprefix("AutoModel") for name, kind in KINDS.items()}


def load_task_model(path: str, kind: str, labels: Sequence[str], seed: int, needs_head: bool = False) -> TaskModel:
    """Load a model in float32 with its own head for the task, or with a new one that depends only on the seed.

    Args:
        path: folder or hub id.
        labels: classes or entity types; the head of a model, if it has one, must be for the same.
        needs_head: whether the model must have a head already, as a teacher must.

    Raises:
        ValueError: if the model cannot be loaded or its head does not fit.
    """
    check_head(path, kind, labels)
    names = KINDS[kind].outputs(labels)
    options: dict[str, Any] = {"num_labels": 2}
    if names:
        options |= {"num_labels": len(names), "id2label": dict(enumerate(names))}
        options |= {"label2id": {name: index for index, name in enumerate(names)}}
    with seeded(seed):
        model, missing = load_model(KINDS[kind].auto_class, path, **options)
    if needs_head and missing:
        raise ValueError(_no_head(path))
    return model


def heads_of(path: str) -> list[str]:
    """Return the classes with a task head that a model's config names, such as BertForTokenClassification."""
    return _heads_of(load_pretrained(AutoConfig, path))


def _heads_of(config: Any) -> list[str]:
    return [name for name in config.architectures or [] if name.endswith(tuple(_HEADS.values()))]


def check_head(path: str, kind: str, labels: Sequence[str], needs_head: bool = False) -> None:
    """Raise ValueError if a model's config names a head for another task, or none although one is needed."""
    config, names = load_pretrained(AutoConfig, path), KINDS[kind].outputs(labels)
    if isinstance(config, BiLSTMConfig) and config.kind != kind:
        raise ValueError(f"{path}: is a BiLSTM for tasks of kind {config.kind}, not {kind}")
    heads = _heads_of(config)
    if other := [name for name in heads if not name.endswith(_HEADS[kind])]:
        raise ValueError(f"{path}: is a {other[0]}, which cannot be used for a task of kind {kind}")
    if heads and names and [config.id2label[index] for index in sorted(config.id2label)] != names:
        found = ", ".join(config.id2label.values())
        raise ValueError(f"{path}: its head is for the labels {found}; this task has {', '.join(names)}")
    if needs_head and not heads:
        raise ValueError(_no_head(path))


def _no_head(path: str) -> str:
    return f"{path}: has no head for this task; fine-tune it first (stages.ft, or launch/td.py)"
