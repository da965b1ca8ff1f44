"""Reading and encoding of a task's examples, by its kind (tasks/kinds)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tasks.config import TaskConfig
from tasks.examples import Example
from tasks.kinds.kind import Columns, TaskData
from tasks.kinds.registry import KINDS
from tasks.rows import EncodedExamples, Tokenizer


def read_task(config: TaskConfig) -> TaskData:
    """Read the training and development files of a task.

    Raise ValueError naming the file and line if a file cannot be read or a record, label or span cannot be used.
    """
    return KINDS[config.kind].read(config)


def with_unlabelled(data: TaskData, config: TaskConfig) -> tuple[TaskData, str]:
    """Return a task's data with its augmented and unlabelled texts, and a message on their numbers, empty for none.

    Raise ValueError naming the file and line if a file has no texts or one that cannot be read.
    """
    augmented = tuple(_examples(config.augmented, _as_written(config))) if config.augmented else ()
    others = tuple(_examples(config.unlabelled, config)) if config.unlabelled else ()
    named = {"augmented": augmented, "unlabelled": others}
    counts = " and ".join(f"{len(found):,} {name}" for name, found in named.items() if found)
    message = f"{counts} examples, without their labels, for stages with a teacher" if counts else ""
    return replace(data, unlabelled=augmented + others), message


def _as_written(config: TaskConfig) -> TaskConfig:
    """Return the configuration that reads the JSON lines which are made of the task's records."""
    columns = {name: None if one is None else str(one) for name, one in config.columns.model_dump().items()}
    return config.model_copy(update={"format": "json_lines", "columns": Columns.model_validate(columns)})


def _examples(path: str, config: TaskConfig) -> Iterator[Example]:
    empty = True
    for one in KINDS[config.kind].inputs(Path(path), config):
        if one.example is None:
            raise ValueError(one.problem)
        empty = False
        yield one.example
    if empty:
        raise ValueError(f"{path}: contains no texts")


def encode(
    examples: Sequence[Example], config: TaskConfig, labels: Sequence[str], tokenizer: Tokenizer
) -> EncodedExamples:
    """Encode examples as rows of at most `row_tokens` tokens.

    A text or pair is one row; a question has a row for every window of its text.

    Args:
        labels: the task's classes or entity types; empty for reading.
        tokenizer: a fast tokenizer of transformers.
    """
    if not examples:
        return EncodedExamples([])  # a tokenizer fails on an empty list
    return KINDS[config.kind].encode(examples, config, labels, tokenizer)
