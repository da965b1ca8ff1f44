"""A labelled task: where its files lie, how they read, what its labels are and what it is scored by."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pretrain.settings import Settings

Kind = Literal["sentence", "pair", "coreference", "entities", "reading"]
Metric = Literal["accuracy", "f1", "macro_f1", "entity_macro_f1", "entity_f1", "reading_f1", "exact_match"]
METRICS: dict[Kind, tuple[Metric, ...]] = {  # the first is the default
    "sentence": ("accuracy", "f1", "macro_f1"),
    "pair": ("accuracy", "f1", "macro_f1"),
    "coreference": ("accuracy", "f1", "macro_f1"),
    "entities": ("entity_macro_f1", "entity_f1"),
    "reading": ("reading_f1", "exact_match"),
}
_FIXED: dict[Kind, tuple[str, ...]] = {  # what the kind's own file leaves nothing to say of
    "entities": ("columns", "ignored_labels"),
    "reading": ("columns", "labels", "ignored_labels"),
}
Column = str | int  # a key of JSON lines, a name in a header, or a place in rows without one


def _as_text(label: Any) -> Any:
    return str(label) if type(label) is int else label


Label = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int)]


class Columns(Settings):
    """Where the parts of an example stand; a list of words found there is joined by spaces."""

    text: Column = "sentence"
    text_b: Column | None = None  # the second text of a pair
    label: Column = "label"


class TaskConfig(Settings):
    """One task. The kinds are those of the NLPCC-2020 small-model task, and CLUEWSC's coreference.

    sentence, pair: one or two texts and a class. coreference: CLUEWSC's records; the two spans are marked in the text
    and the class is whether they mean the same. entities: CLUENER's records, {"text", "label": {type: {words: [[first,
    last]]}}}, last included. reading: CMRC2018's file, which is SQuAD's.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    kind: Kind
    train: str
    dev: str
    format: Literal["json_lines", "table", "csv"] = "json_lines"  # columns of a table are separated by tabs
    has_header: bool = True  # of a table or CSV
    columns: Columns = Columns()
    labels: list[Label] | None = None  # those of the training file, sorted as text, unless given
    ignored_labels: tuple[Label, ...] = ()  # records without an agreed label, OCNLI's "-", are left out and counted
    metric: Metric | None = None
    row_tokens: Annotated[int, Field(ge=16)] = 128
    window_stride: Annotated[int, Field(ge=1)] = 128  # tokens that windows of a long text to read share

    @property
    def scored_by(self) -> Metric:
        """The metric, or the kind's default."""
        return self.metric or METRICS[self.kind][0]

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskConfig":
        if self.scored_by not in METRICS[self.kind]:
            raise ValueError(f"metric: a task of kind {self.kind} has {', '.join(METRICS[self.kind])}")
        if (self.kind == "pair") != (self.columns.text_b is not None):
            raise ValueError("columns.text_b: a pair has two texts, the other kinds one")
        if self.format != "json_lines" and self.kind not in ("sentence", "pair"):
            raise ValueError(f"format: {self.kind} is read from JSON")
        for key in _FIXED.get(self.kind, ()):
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].get_default():
                raise ValueError(f"{key}: {self.kind} is read from files of one form; leave it out")
        if self.labels is not None:
            self._check_labels(self.labels)
        if self.kind == "reading" and self.window_stride >= self.row_tokens // 2:
            raise ValueError("window_stride: must be less than half of row_tokens, so that windows move on")
        return self

    def _check_labels(self, labels: list[str]) -> None:
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"labels: {twice[0]} stands there more than once")
        if len(labels) < 2 and self.kind != "entities":
            raise ValueError("labels: a task needs at least two different ones")
