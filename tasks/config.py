"""The configuration of a labelled task: its files and their format, its labels and its metric."""

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
_FIXED: dict[Kind, tuple[str, ...]] = {  # keys that the kind's own file format determines
    "entities": ("columns", "ignored_labels"),
    "reading": ("columns", "labels", "ignored_labels"),
}
Column = str | int  # a key of JSON lines, a name in a header, or the index of a column without header


def _as_text(label: Any) -> Any:
    return str(label) if type(label) is int else label


Label = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int)]


class Columns(Settings):
    """The columns of texts and label. A value that is a list of words is joined by spaces."""

    text: Column = "sentence"
    text_b: Column | None = None  # the second text of a pair
    label: Column = "label"


class TaskConfig(Settings):
    """One task. The kinds are those of the NLPCC-2020 task on small models, and CLUEWSC's coreference.

    sentence, pair: one or two texts and a class. coreference: CLUEWSC's records; the class is whether two spans, which
    are marked in the text, refer to the same. entities: CLUENER's records, {"text", "label": {type: {words: [[first,
    last]]}}}, last included. reading: CMRC2018's file, which has SQuAD's format.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    kind: Kind
    train: str
    dev: str
    format: Literal["json_lines", "table", "csv"] = "json_lines"  # columns of a table are separated by tabs
    has_header: bool = True  # of a table or CSV
    columns: Columns = Columns()
    labels: list[Label] | None = None  # null: those of the training file, sorted as text
    ignored_labels: tuple[Label, ...] = ()  # records to leave out, such as OCNLI's "-", which has no agreed label
    metric: Metric | None = None  # null: the kind's default
    row_tokens: Annotated[int, Field(ge=16)] = 128
    window_stride: Annotated[int, Field(ge=1)] = 128  # of reading: tokens by which windows of a long text overlap

    @property
    def scored_by(self) -> Metric:
        """The metric; the kind's default unless configured."""
        return self.metric or METRICS[self.kind][0]

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskConfig":
        if self.scored_by not in METRICS[self.kind]:
            raise ValueError(f"metric: a task of kind {self.kind} has the metrics {', '.join(METRICS[self.kind])}")
        if (self.kind == "pair") != (self.columns.text_b is not None):
            raise ValueError("columns.text_b: must be given for kind pair and for no other kind")
        if self.format != "json_lines" and self.kind not in ("sentence", "pair"):
            raise ValueError(f"format: must be json_lines for kind {self.kind}")
        for key in _FIXED.get(self.kind, ()):
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].get_default():
                raise ValueError(f"{key}: must be left out for kind {self.kind}, whose files have a fixed format")
        if self.labels is not None:
            self._check_labels(self.labels)
        if self.kind == "reading" and self.window_stride >= self.row_tokens // 2:
            raise ValueError("window_stride: must be less than half of row_tokens, so that windows advance")
        return self

    def _check_labels(self, labels: list[str]) -> None:
        if repeated := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"labels: {repeated[0]} is listed more than once")
        if len(labels) < 2 and self.kind != "entities":
            raise ValueError("labels: must list at least two")
