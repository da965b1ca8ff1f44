"""The configuration of an augmentation, and why a task cannot be augmented so."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from pretrain.settings import Settings
from tasks.config import TaskConfig, not_augmented
from tasks.kinds.registry import KINDS

SourceName = Literal["masked_language", "neighbours", "mask_and_ngram"]
_MOVING = ("entities", "coreference")  # kinds whose records say where in the text a span is


class AugmentationConfig(Settings):
    """How copies are made. A share of them, those that are least like their text, is dropped.

    masked_language: words by a masked-language model in their context, TinyBERT's way (arXiv:1909.10351, algorithm 1).
    neighbours: words whose vectors are near in the model's embedding layer. mask_and_ngram: words masked, and short
    pieces of the text (arXiv:1903.12136, without its exchange of words by part of speech).
    """

    source: SourceName
    model: Annotated[str, Field(min_length=1)]  # a folder or hub id
    copies: PositiveInt = 20  # for each record, after the worst are dropped
    prob: Annotated[float, Field(gt=0, le=1)] | None = None  # null: 0.4 for words replaced, 0.1 for words masked
    candidates: PositiveInt = 15  # for each word
    drop: Annotated[float, Field(ge=0, lt=1)] | None = None  # null: 0.5, and none for mask_and_ngram
    seed: NonNegativeInt = 17

    @property
    def keeps_lengths(self) -> bool:
        """Whether every copy has as many characters as its text, so that all of its other words stay in place."""
        return self.source != "mask_and_ngram"

    @property
    def chosen_prob(self) -> float:
        """The probability with which a word is replaced or masked."""
        return self.prob or (0.4 if self.keeps_lengths else 0.1)

    @property
    def chosen_drop(self) -> float:
        """The share of copies to drop."""
        return (0.5 if self.keeps_lengths else 0.0) if self.drop is None else self.drop

    def check(self, task: TaskConfig) -> None:
        """Raise ValueError if texts of this kind of task are not augmented, or not from this source."""
        if KINDS[task.kind].why_not_augmented:
            raise ValueError(f"{task.name}: {not_augmented(task.kind)}")
        if task.kind in _MOVING and not self.keeps_lengths:
            raise ValueError(
                f"--source {self.source}: its copies have other lengths than their texts, and the spans of kind "
                f"{task.kind} would move; use masked_language or neighbours"
            )
