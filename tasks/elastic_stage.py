"""DynaBERT on a task (arXiv:2004.04037): the fine-tuned model made elastic, first in width, then in depth too.

As in the paper, and not as in its authors' code: importance is measured on training examples, by the gradient of each
batch alone; every width of the second phase learns from the same width of the first phase's model; padding counts
nowhere. Other than in the paper, widths are those of feed-forward layers alone, because fewer heads are no ordinary
model; a sub-network keeps the last layer of every equal share; and states are compared through projections that start
at the identity.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch.distributed as dist
from pydantic import Field, JsonValue, field_validator
from torch import Tensor, nn

from pretrain.checkpoints.checkpoint import checkpoint_folders
from pretrain.elastic.config import ElasticConfig
from pretrain.elastic.size import Size, cut_shape, kept_layers
from pretrain.elastic.slices import cut_model
from pretrain.elastic.subnetworks import SubNetworks
from pretrain.models.encoder import Features
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher, TeacherFunction
from pretrain.objectives.layers import HiddenStatesConfig
from pretrain.objectives.objective import Objective, ObjectiveConfig
from pretrain.precision import WantedDtype
from pretrain.quantization import QuantizationConfig
from pretrain.settings import Problems
from pretrain.students.student import Student
from tasks.batches import TaskBatches
from tasks.examples import Example
from tasks.label_objectives import Labels, LabelsConfig, SoftLabelsConfig, TaskObjective
from tasks.models import TaskModel, load_task_model
from tasks.rows import Row
from tasks.stage import Stage, StageConfig
from tasks.teachers import WeightedTeacher

Phase = Literal["width", "depth"]
_IMPORTANCE_ROWS, _IMPORTANCE_BATCHES = 16, 64  # of training examples


def _published() -> list[Any]:
    """The paper's losses: the teacher's predictions, and all states with a weight of 0.1."""
    states = HiddenStatesConfig(type="hidden_states", weight=0.1, normalize_targets=False)
    return [SoftLabelsConfig(type="soft_labels"), states]


class ElasticStageConfig(StageConfig):
    """DynaBERT: all sizes of the fine-tuned teacher, trained together, in two phases of so many epochs."""

    elastic: ElasticConfig  # sizes; without depths there is one phase, by width
    objective: Annotated[list[TaskObjective], Field(min_length=1)] = Field(default_factory=_published)
    adversarial: JsonValue = None  # type: ignore[assignment]  # must be left out: its teacher has no labels

    @field_validator("adversarial")
    @classmethod
    def _check_adversarial(cls, value: JsonValue) -> None:
        if value is not None:
            raise ValueError("is not for elastic stages; give adversarial to ft or td2")

    @field_validator("quantization")
    @classmethod
    def _check_quantization(cls, value: QuantizationConfig | None) -> QuantizationConfig | None:
        if value:
            raise ValueError("rounds one size alone; leave it out, and train a published size with it in td2")
        return value

    @field_validator("objective")
    @classmethod
    def _check_predictions(cls, value: list[ObjectiveConfig]) -> list[ObjectiveConfig]:
        if not any(one.reads_task_head for one in value):
            raise ValueError("must have soft_labels or labels: nothing else trains the predictions of the sizes")
        return value

    @property
    def phases(self) -> list[Phase]:
        """The phases to run, in order."""
        return ["width", "depth"] if self.elastic.depths else ["width"]

    def problems(self, whole: EncoderShape) -> Problems:
        """Yield (key, message) for sizes that do not nest in the fine-tuned model, and objectives that do not fit."""
        yield from self.elastic.problems(None, whole, [])
        for depth in sorted({whole.num_layers, *(one for one in self.elastic.depths if one < whole.num_layers)}):
            inner = cut_shape(whole, Size(depth, whole.intermediate_size))
            for index, objective in enumerate(self.objective):
                for key, message in at_depth(objective, whole.num_layers, depth).problems(whole, inner):
                    yield f"objective.{index}.{key}", f"{message} (at {depth} layers)"


def at_depth(objective: ObjectiveConfig, num_layers: int, depth: int) -> ObjectiveConfig:
    """Return an objective for a sub-network whose teacher has the whole's layers: each learns from its own."""
    if not isinstance(objective, HiddenStatesConfig):
        return objective
    return objective.model_copy(update={"layer_map": [layer + 1 for layer in kept_layers(num_layers, depth)]})


class TeachersByWidth(nn.Module):
    """A frozen teacher for each width, all cut from one elastic model.

    Args:
        whole: the full width.
        narrower: the others, by width.
    """

    def __init__(self, whole: Teacher, narrower: Mapping[int, Teacher]) -> None:
        super().__init__()
        self.whole, self.narrower = whole, dict(narrower)

    def forward(self, batch: Mapping[str, Tensor]) -> Features:
        """Return the features of the full width, with those of the other widths as `by_width`."""
        features: Features = self.whole(batch)
        features.by_width = {width: teacher(batch) for width, teacher in self.narrower.items()}
        return features


class ElasticStage(Stage):
    """One phase. Its arguments are a stage's; student and teacher are the same model.

    Args:
        phase: "width" for all widths at full depth, "depth" for every depth with every width.
        model: the fine-tuned model, or that of the first phase.
    """

    def __init__(self, phase: Phase, run: Path, task: Any, config: ElasticStageConfig, model: str, *more: Any) -> None:
        self.phase: Phase = phase
        sizes = config.elastic if phase == "depth" else config.elastic.model_copy(update={"depths": []})
        self.sizes = sizes.model_copy(update={"rewire": sizes.rewire and phase == "width"})
        self.seed = more[1].seed
        super().__init__(run, phase, task, config, model, model, *more)

    def _student(self, name: str, model: TaskModel, objectives: Sequence[Objective]) -> Student:
        whole = EncoderShape.of(model.config)
        own = [at_depth(one, whole.num_layers, whole.num_layers).build(whole, whole) for one in self.config.objective]
        student = super()._student(name, model, own)

        def build(inner: EncoderShape) -> list[Objective]:
            return [
                at_depth(one, whole.num_layers, inner.num_layers).build(whole, inner) for one in self.config.objective
            ]

        student.add_sizes(SubNetworks(self.sizes, student.encoder, student.objectives, build, self.seed))
        return student

    def _build(
        self, name: str, model: TaskModel, teacher: str | Sequence[WeightedTeacher] | None, dtype: WantedDtype
    ) -> tuple[Student, TeacherFunction]:
        student, whole = super()._build(name, model, teacher, dtype)
        assert isinstance(teacher, str) and student.inner
        starts = dist.get_rank() == 0 and not checkpoint_folders(self.run / "checkpoints")
        if self.phase == "width" and starts:  # elsewhere a checkpoint or rank 0's weights replace these
            labels = nn.ModuleList([Labels(LabelsConfig(type="labels"))])
            student.rewire(whole, self._importance_batches(), labels)
        if self.phase == "width" or not self.config.needs_teacher:
            return student, whole
        task, narrower = self.task, {}
        for width in {size.feed_forward for size in student.inner.sizes} - {student.encoder.shape.intermediate_size}:
            large = load_task_model(teacher, task.config.kind, task.data.labels, 0, True)
            cut = cut_model(large, Size(student.encoder.shape.num_layers, width))
            narrower[width] = Teacher(cut, [student.teacher_reads], dtype, self.device)
        assert isinstance(whole, Teacher)
        return student, TeachersByWidth(whole, narrower)

    def _importance_batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches of training examples, an epoch at most."""
        rows, pad = self.task.train, self.task.tokenizer.pad_token_id
        batches = TaskBatches(rows, pad, min(_IMPORTANCE_ROWS, len(rows)), self.seed)
        endless = batches.batches(0, batches.batch_rows)
        for _ in range(min(_IMPORTANCE_BATCHES, batches.steps_per_epoch)):
            yield self._to_device(next(endless))

    def score_sizes(self, rows: Sequence[Row], examples: Sequence[Example]) -> dict[str, dict[str, float]]:
        """Return every metric of every size, the largest first. Every rank must call it."""
        inner = self.student.inner
        assert inner
        scores = {str(inner.sizes[0]): self.score(rows, examples)}
        return scores | {str(size): self.score(rows, examples, network) for size, (network, _) in inner.parts().items()}
