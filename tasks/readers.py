"""Reading and encoding of a task's examples, by its kind (tasks/kinds)."""

from collections.abc import Sequence

from tasks.config import TaskConfig
from tasks.examples import Example
from tasks.kinds.kind import TaskData
from tasks.kinds.registry import KINDS
from tasks.rows import EncodedExamples, Tokenizer


def read_task(config: TaskConfig) -> TaskData:
    """Read the training and development files of a task.

    Raise ValueError naming the file and line if a file cannot be read or a record, label or span cannot be used.
    """
    return KINDS[config.kind].read(config)


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
