"""Task models: a Hugging Face encoder with the head that a task's kind wants."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tasks.encoding import tags_of
from tasks.settings import Kind

TaskModel = Any  # what one of these classes gives
AUTO_CLASSES: dict[Kind, Any] = {
    "sentence": AutoModelForSequenceClassification,
    "pair": AutoModelForSequenceClassification,
    "coreference": AutoModelForSequenceClassification,
    "entities": AutoModelForTokenClassification,
    "reading": AutoModelForQuestionAnswering,
}
_HEADS: dict[Kind, str] = {
    "sentence": "ForSequenceClassification",
    "pair": "ForSequenceClassification",
    "coreference": "ForSequenceClassification",
    "entities": "ForTokenClassification",
    "reading": "ForQuestionAnswering",
}


def load_task_model(path: str, kind: Kind, labels: Sequence[str], seed: int, needs_head: bool = False) -> TaskModel:
    """A model in float32 with its own head, or with a new one, the same for the same seed.

    Args:
        labels: classes, or types of entities; a model that has a head must have it for the same ones.
        needs_head: refuse a model without one, which cannot teach the task.
    """
    names = tags_of(labels) if kind == "entities" else list(labels)
    config = _config(path)
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if names:
        has_head = any(name.endswith(_HEADS[kind]) for name in config.architectures or [])
        if has_head and [config.id2label[index] for index in sorted(config.id2label)] != names:
            theirs = ", ".join(config.id2label.values())
            raise ValueError(f"{path}: its head is for the labels {theirs}; this task has {', '.join(names)}")
        options |= {"num_labels": len(names), "id2label": dict(enumerate(names))}
        options |= {"label2id": {name: index for index, name in enumerate(names)}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, found = AUTO_CLASSES[kind].from_pretrained(path, **options)
    if needs_head and found["missing_keys"]:
        raise ValueError(f"{path}: has no head for this task, so it cannot teach it; fine-tune it first (stages.ft)")
    return model


def _config(path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no model could be loaded: {str(error).strip().splitlines()[0]}") from error
