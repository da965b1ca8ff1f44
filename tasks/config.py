"""The configuration of a labelled task: its files and their format, its labels and its metric."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pretrain.settings import Settings
from tasks.kinds.kind import Columns
from tasks.kinds.registry import KINDS

METRICS = tuple(dict.fromkeys(metric for kind in KINDS.values() for metric in kind.metrics))


def _check_kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}; there are {', '.join(KINDS)}")
    return name


Kind = Annotated[str, AfterValidator(_check_kind), Field(json_schema_extra={"enum": list(KINDS)})]
Metric = Annotated[str, Field(json_schema_extra={"enum": list(METRICS)})]


def _as_text(label: Any) -> Any:
    return str(label) if type(label) is int else label


Label = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int)]


def not_augmented(kind: str) -> str:
    """Return why texts of a kind of task are not augmented, and what to do instead; empty if they are."""
    why = KINDS[kind].why_not_augmented
    return f"kind {kind} cannot be augmented: {why}; give more texts without labels as task.unlabelled" if why else ""


class TaskConfig(Settings):
    """One task. The kinds are those of the NLPCC-2020 task on small models, and CLUEWSC's coreference.

    sentence, pair: one or two texts and a class. coreference: CLUEWSC's records; the class is whether two spans, which
    are marked in the text, refer to the same. entities: CLUENER's records, {"text", "label": {type: {words: [[first,
    last]]}}}, last included, or files of tags. reading: the files of CMRC2018, SQuAD and the like. choice: C3's.
    idioms: ChID's, with the answers to dev.json in dev_answer.json.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    kind: Kind
    train: str  # of choice and idioms also a pattern of several files, such as c3/*-train.json
    dev: str
    format: Literal["json_lines", "table", "csv", "tags"] = "json_lines"  # columns of a table are separated by tabs
    has_header: bool = True  # of a table or CSV
    columns: Columns = Columns()
    labels: list[Label] | None = None  # null: those of the training file, sorted as text
    ignored_labels: tuple[Label, ...] = ()  # records to leave out, such as OCNLI's "-", which has no agreed label
    metric: Metric | None = None  # null: the kind's default
    skip_unanswerable: bool = False  # of reading: leave out questions whose answer is missing or not in the text
    augmented: str | None = None  # texts from launch/augment_task.py: td1 and td2 learn the teacher's answers to them
    unlabelled: str | None = None  # more texts in the form of the task, labels not read: the same as `augmented`
    row_tokens: Annotated[int, Field(ge=16)] = 128
    window_stride: Annotated[int, Field(ge=1)] = 128  # of reading: tokens by which windows of a long text overlap

    @property
    def labelled(self) -> "TaskConfig":
        """The task without texts that only stages with a teacher read."""
        return self.model_copy(update={"augmented": None, "unlabelled": None})

    @property
    def scored_by(self) -> str:
        """The metric; the kind's default unless configured."""
        return self.metric or KINDS[self.kind].metrics[0]

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "TaskConfig":
        kind = KINDS[self.kind]
        if self.scored_by not in kind.metrics:
            raise ValueError(f"metric: a task of kind {self.kind} has the metrics {', '.join(kind.metrics)}")
        if kind.has_second_text != (self.columns.text_b is not None):
            pairs = ", ".join(name for name, one in KINDS.items() if one.has_second_text)
            raise ValueError(f"columns.text_b: must be given for kind {pairs} and for no other kind")
        if self.format not in kind.formats:
            raise ValueError(f"format: must be {' or '.join(kind.formats)} for kind {self.kind}")
        if self.skip_unanswerable and not kind.has_questions:
            raise ValueError(f"skip_unanswerable: kind {self.kind} has no questions")
        for key in kind.fixed_keys:
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].get_default():
                raise ValueError(f"{key}: must be left out for kind {self.kind}, whose files have a fixed format")
        if self.augmented and kind.why_not_augmented:
            raise ValueError(f"augmented: {not_augmented(self.kind)}")
        if self.labels is not None:
            self._check_labels(self.labels, kind.min_labels)
        for problem in kind.problems(self):
            raise ValueError(problem)
        return self

    def _check_labels(self, labels: list[str], min_labels: int) -> None:
        if repeated := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"labels: {repeated[0]} is listed more than once")
        if len(labels) < min_labels:
            raise ValueError(f"labels: must list at least {min_labels}")
