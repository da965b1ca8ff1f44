"""A student: its encoder and its objectives in one module, and building it from a configuration."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.elastic.rewiring import Importance, rewire
from pretrain.elastic.subnetwork import Network
from pretrain.elastic.subnetworks import SubNetworks
from pretrain.models.encoder import Encoder, Features, HuggingFaceModel, union
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import TeacherFunction
from pretrain.models.vocabulary_head import VocabularyHead, auto_class_of
from pretrain.objectives.objective import Objective
from pretrain.precision import Dtype, autocast
from pretrain.progress import Progress
from pretrain.quantization import QuantizationConfig, Rounding, check_rounding
from pretrain.students.config import StudentConfig
from pretrain.students.initialization import initialize, seeded


class Student(nn.Module):
    """An encoder with its objectives; `forward` returns the loss to train on.

    Args:
        name: prefix of its metrics and name of its folder in checkpoints.
        model: a Hugging Face encoder, or a task model that contains one.
        objectives: the losses; their projections are trained too.
        dropout_prob: replaces the dropout probability of the model.
        head: its masked-language head if an objective needs one; published together with the encoder.
        whole: the model to publish, where it is more than `model`.
        quantization: the arithmetic of the last part of the run. ValueError if the model has layers that it leaves out.

    Attributes:
        inner: its smaller sizes, if it is elastic: parts of this encoder.
    """

    def __init__(
        self,
        name: str,
        model: HuggingFaceModel,
        objectives: Sequence[Objective],
        dropout_prob: float = 0.0,
        head: VocabularyHead | None = None,
        whole: HuggingFaceModel | None = None,
        quantization: QuantizationConfig | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self._published = (whole or (head.model if head else model),)  # in a tuple it is not registered a second time
        self.name = name
        self.quantization = quantization
        if quantization:
            check_rounding(model, quantization.weights)
        self.dtype: Dtype = "float32"  # the type `forward` computes in; weights stay float32
        self.progress = 0.0  # share of the run's steps that is done, for schedules of weights
        self.step: int | None = None  # optimizer steps so far, by which an elastic student draws sizes; None: all sizes
        self.loss_scale: Tensor | float = 1.0  # by which the loss is multiplied before its backward pass, in float16
        for objective in objectives:
            objective.attach(self.published)
        self.objectives = nn.ModuleList(objectives)
        self.encoder = Encoder(model, union(objective.student_reads for objective in objectives))
        self.teacher_reads = union(objective.teacher_reads for objective in objectives)
        self.inner: SubNetworks | None = None
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout_prob
        self.train()  # models loaded from a folder are in evaluation mode, without dropout

    def add_sizes(self, inner: SubNetworks) -> None:
        """Make the student elastic: train these parts of it, too."""
        self.inner = inner
        for objective in inner.every_objective():
            objective.attach(self.published)
        self.teacher_reads = union([self.teacher_reads, *(one.teacher_reads for one in inner.every_objective())])

    @property
    def networks(self) -> dict[str, tuple[Network, nn.ModuleList]]:
        """What computes features, and its objectives: the whole as "", each smaller size by its name, such as 2x600."""
        inner = self.inner.parts() if self.inner else {}
        return {"": (self.encoder, self.objectives), **{str(size): one for size, one in inner.items()}}

    @property
    def needs_counts(self) -> bool:
        """Whether an objective averages over all tokens of a step (see `Objective.reduction`)."""
        return any(objective.reduction == "tokens" for objective in self.objectives)

    def begin_step(self, step: int, total_steps: int) -> None:
        """Compute from now on as the step after `step` of the run's steps does, by the schedules of the student."""
        self.progress, self.step = step / total_steps, step
        rounded = self.quantization
        is_due = rounded and rounded.is_due(step, total_steps)
        self.encoder.arithmetic = Rounding(rounded.weights) if rounded and is_due else nullcontext()

    @property
    def reads_places(self) -> bool:
        """Whether it reads the positions of real or masked tokens."""
        return bool(self.head) or any(objective.reads_labels for objective in self.objectives)

    @property
    def published(self) -> HuggingFaceModel:
        """The model that is saved and published: the encoder, with the heads of its family that objectives train."""
        return self._published[0]

    def forward(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss of one micro-batch, a float32 scalar, and by name its unweighted, detached terms.

        Args:
            batch: tensors [B, L] (see Encoder.forward and Objective.forward).
            teacher: the teacher's features for this batch.
        """
        with autocast(batch["input_ids"].device, self.dtype):
            return self._loss(batch, teacher)

    def _loss(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; of an elastic student the mean of this step's sizes, each one's, and the largest's terms."""
        for objective in self.objectives:
            assert isinstance(objective, Objective)
            batch = objective.prepare(batch)
        if self.inner is None:
            return self.loss_of(self.encoder, self.objectives, batch, teacher)
        terms: dict[str, Tensor] = {}
        drawn, losses = self.inner.drawn(self.step), []
        for size in drawn:
            network, objectives = self.inner.parts().get(size, (self.encoder, self.objectives))
            target = teacher.by_width.get(size.feed_forward, teacher)
            loss, own = self.loss_of(network.train(self.training), objectives, batch, target)
            losses.append(loss)
            terms |= {f"loss/{size}": own["loss"], **({} if terms else own)}
        total = torch.stack(losses).mean() + self.inner.idle(drawn).to(losses[0].device)
        return total, {**terms, "loss": total.detach()}

    def loss_of(
        self, network: nn.Module, objectives: nn.ModuleList, batch: Mapping[str, Tensor], teacher: Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the whole student or of one smaller size, and its terms, as `forward` does."""
        features: Features = network(batch)
        features.head = self.head
        total, terms = torch.zeros((), device=batch["input_ids"].device), {}
        for index, objective in enumerate(objectives):
            assert isinstance(objective, Objective)
            parts = objective(teacher, features, batch)
            total = total + objective.total(parts, self.progress)
            for name, value in parts.items():
                terms[f"{name}/{index}" if name in terms else name] = value.detach()
        return total, {"loss": total.detach(), **terms}

    def start_from(self, basis: Tensor | None) -> None:
        """Start the objectives' projections at a map [D_teacher, D_student], if there is one."""
        if basis is None:
            return
        for objective in chain(self.objectives, self.inner.every_objective() if self.inner else ()):
            assert isinstance(objective, Objective)
            objective.start_from(basis)

    @Progress("sorting neurons by importance")
    def rewire(
        self,
        teacher: TeacherFunction,
        batches: Iterable[Mapping[str, Tensor]],
        objectives: nn.ModuleList | None = None,
    ) -> None:
        """Sort the neurons of an elastic student by how much the loss of the whole depends on them on these batches.

        What the student computes stays the same. Nothing is done where every size has all neurons.

        Args:
            objectives: whose loss it is; the student's own by default.
        """
        if self.inner is None or not self.inner.narrows:
            return
        importance, training = Importance(self.encoder.model), self.training
        self.eval()
        for batch in batches:
            self.loss_of(self.encoder, objectives or self.objectives, batch, teacher(batch))[0].backward()
            importance.add()
            self.zero_grad()
        self.train(training)
        rewire(self.encoder.model, importance.layers)

    @Progress("finding weights that no objective trains")
    def freeze_unreached(self, teacher: TeacherFunction, batch: Mapping[str, Tensor] | None = None) -> list[str]:
        """Freeze the parameters that no objective trains, and return their names within the encoder.

        They are those without a gradient after one backward pass on `batch`, or on a few tokens. Otherwise DeepSpeed
        would give them zero gradients and weight decay would shrink them.
        """
        if batch is None:
            ids = torch.arange(16, device=next(self.parameters()).device).view(2, 8)
            ids = ids % self.encoder.shape.vocab_size
            batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "labels": ids}
            batch |= {"draws": torch.full(ids.shape, 0.5, device=ids.device), "order_labels": ids[:, 0] % 2}
        self(batch, teacher(batch))[0].backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        return [name for name, parameter in self.encoder.model.named_parameters() if not parameter.requires_grad]


def build_student(
    config: StudentConfig,
    teacher: HuggingFaceModel | None,
    seed: int,
    sample: Mapping[str, Tensor] | None = None,
    teacher_head: VocabularyHead | None = None,
    base: Any = None,
    pad_token_id: int | None = None,
) -> Student:
    """Build a student of the teacher's family, or that of `config.architecture`, reproducibly for a seed.

    It has the initial weights of `config.init`.

    A masked-language head starts as the published student's (`config.init.student`), or as the teacher's if the
    embeddings do and the widths are equal, otherwise at random.

    Args:
        teacher: the teacher's Hugging Face encoder, before it is cut; None in a run without a teacher.
        sample: a batch of text [B, L], needed if `config.init` reads text. ValueError without it.
        teacher_head: the teacher's masked-language head if it was loaded.
        base: without a teacher, the Hugging Face config that gives all but the student's sizes.
        pad_token_id: what rows are padded with, for a student of another family; the teacher's, or 0, if not given.
    """
    with seeded(seed):
        if teacher is not None:
            base = teacher.config
        shape = EncoderShape.of(base)
        if teacher is not None and config.architecture:
            padding = (base.pad_token_id or 0) if pad_token_id is None else pad_token_id
            base = config.architecture.build(base.vocab_size, padding, teacher.config)
        whole, head = _build_model(config, base)
        model = whole.base_model
        objectives = [objective.build(shape, EncoderShape.of(model.config)) for objective in config.objective]
        student = Student(config.name, model, objectives, config.dropout_prob, head, whole, config.quantization)
        if config.elastic:
            with seeded(seed):  # initial weights are those of the student alone
                build = lambda inner: [one.build(shape, inner) for one in config.objective]  # noqa: E731
                student.add_sizes(SubNetworks(config.elastic, student.encoder, student.objectives, build, seed))
        if teacher is None:
            return student
        student.start_from(initialize(model, teacher, config.init, sample))
        if head:
            _start_head(head, config, teacher_head)
        return student


@torch.no_grad()
def _start_head(head: VocabularyHead, config: StudentConfig, teacher_head: VocabularyHead | None) -> None:
    source = teacher_head if config.init.embeddings == "teacher" else None
    if config.init.student:
        published = auto_class_of(Path(config.init.student)).from_pretrained(config.init.student)
        source = VocabularyHead(published) if published.get_output_embeddings() else None
    sizes = [[weight.shape for weight in one.transform.parameters()] if one else None for one in (source, head)]
    if source and sizes[0] == sizes[1]:
        head.transform.load_state_dict(source.transform.state_dict())
        head.bias.copy_(source.bias)  # the weight is the embeddings, which are initialised already


def _build_model(config: StudentConfig, base: Any) -> tuple[HuggingFaceModel, VocabularyHead | None]:
    """Return the student's whole model, and its masked-language head if an objective trains one."""
    values = config.hugging_face_config(base)
    if config.needs_head:
        values.tie_word_embeddings = True
    whole = config.auto_class(values.model_type).from_config(values, dtype=torch.float32)
    return whole, VocabularyHead(whole) if config.needs_head else None
