"""One DeepSpeed engine per student: its training step, metrics and state."""

from collections.abc import Mapping
from typing import Protocol

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.engines.loss_scale import LossScale, LossScaleState
from pretrain.engines.optimizer_state import gather_optimizer_state, put_optimizer_state
from pretrain.models.encoder import Features
from pretrain.optimizer import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule
from pretrain.precision import choose_dtype
from pretrain.progress import Progress
from pretrain.ranks.process_group import import_deepspeed
from pretrain.settings import Settings
from pretrain.students.student import Student


class OptimizationConfig(Protocol):
    """The part of a student's configuration that an engine needs."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """The settings of AdamW."""

    @property
    def schedule(self) -> ScheduleConfig:
        """The schedule of the learning rate."""


class Counters(Settings):
    """What an engine counts and a checkpoint keeps."""

    steps: NonNegativeInt  # including skipped ones
    skipped_steps: NonNegativeInt  # by DeepSpeed
    schedule_steps: NonNegativeInt  # of the learning rate's schedule
    bad_in_a_row: NonNegativeInt = 0  # the latest steps, all with a loss or gradient that was not finite
    loss_scale: LossScaleState | None = None  # only for students that compute in float16


class StudentEngine:
    """One student in a DeepSpeed engine with its own gradient clipping, optimizer and schedule.

    So a student trained together with others ends bit-identical to the same student trained alone.

    Args:
        student: gets its compute type, `student.dtype`, from `deepspeed_config`.
        config: optimizer and schedule.
        deepspeed_config: batch size, precision and ZeRO stage.
        total_steps: length of the schedule.
        world_size: number of ranks. The process group must exist (ranks.process_group.start_distributed).
    """

    @Progress("building the engine")
    def __init__(
        self,
        student: Student,
        config: OptimizationConfig,
        deepspeed_config: DeepSpeedConfig,
        total_steps: int,
        world_size: int,
    ) -> None:
        deepspeed = import_deepspeed()
        self.student, self.name = student, student.name
        self.accumulation_steps = deepspeed_config.accumulation_steps(world_size)
        self.max_grad_norm, self.total_steps = deepspeed_config.gradient_clipping, total_steps
        self.world_size = world_size
        self.sharded = deepspeed_config.zero_optimization.stage > 0
        # Stage 0 reports no gradient norm, so there clipping is done here, which computes the norm.
        values = deepspeed_config.model_dump(exclude_none=True)
        values |= {"train_micro_batch_size_per_gpu": deepspeed_config.micro_rows(world_size)}
        values |= {"gradient_clipping": self.max_grad_norm if self.sharded else 0.0, "steps_per_print": None}
        if self.sharded:  # it allocates whole buckets, by default of 2 GB each, ten times the size of students
            most = sum(parameter.numel() for parameter in student.parameters())
            most += most % 2
            for key in ("reduce_bucket_size", "allgather_bucket_size"):
                values["zero_optimization"][key] = min(values["zero_optimization"][key], most)
        # Its timers would wait for the device twice per micro-batch.
        values |= {"timers": {"throughput": {"enabled": False}}}
        del values["torch_autocast"]
        optimizer = build_optimizer(student, config.optimizer, student.encoder.model.base_model)
        self.engine, _, _, self.schedule = deepspeed.initialize(
            model=student,
            model_parameters=[p for p in student.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=build_schedule(optimizer, config.schedule, total_steps),
            config=values,
            dist_init_required=False,
        )
        student.dtype = choose_dtype(deepspeed_config.torch_autocast.wanted, self.engine.device)
        self._loss_scale = LossScale(self.engine.device) if student.dtype == "float16" else None
        self._scale_gradients()
        if world_size == 1 and not self.sharded:
            self.engine.enable_backward_allreduce = False  # it would copy every gradient twice without need
        self._optimizer = optimizer
        self._sums: dict[str, Tensor] = {}  # of each metric, and of how many finite values
        self._counts: dict[str, Tensor] = {}
        self._learning_rate = 0.0
        zero = torch.zeros((), device=self.engine.device)
        self._step_is_bad, self._num_skipped = zero, zero
        self._bad_in_a_row, self._most_bad_in_a_row = zero, zero

    @property
    def steps(self) -> int:
        """Optimizer steps so far, including skipped ones; DeepSpeed's own count."""
        return int(self.engine.global_steps)

    @property
    def counters(self) -> Counters:
        """The counters that a checkpoint keeps. Waits for the device."""
        return Counters(
            steps=self.steps,
            skipped_steps=self.engine.skipped_steps,
            schedule_steps=self.schedule.last_epoch,
            bad_in_a_row=int(self._bad_in_a_row),
            loss_scale=self._loss_scale.state if self._loss_scale else None,
        )

    def gather_tensors(self) -> dict[str, Tensor]:
        """Return every parameter and the optimizer's state by name, complete on every rank. Every rank must call it."""
        parameters = {name: parameter.detach() for name, parameter in self.student.named_parameters()}
        return parameters | gather_optimizer_state(self.engine, self.student, self._optimizer)

    @torch.no_grad()
    def put_tensors(self, tensors: Mapping[str, Tensor], counters: Counters) -> None:
        """Load what `gather_tensors` and `counters` returned, on any number of ranks and at any ZeRO stage."""
        for name, parameter in self.student.named_parameters():
            parameter.copy_(tensors[name])
        put_optimizer_state(self.engine, self.student, self._optimizer, tensors)
        engine, schedule = self.engine, self.schedule
        engine.global_steps, engine.skipped_steps = counters.steps, counters.skipped_steps
        engine.global_samples = counters.steps * engine.train_batch_size()
        engine.micro_steps = counters.steps * self.accumulation_steps
        self.student.begin_step(counters.steps, self.total_steps)  # it may be scored without another step
        schedule.last_epoch = counters.schedule_steps
        self._bad_in_a_row = torch.full_like(self._bad_in_a_row, counters.bad_in_a_row)
        self._most_bad_in_a_row = self._bad_in_a_row
        if self._loss_scale and counters.loss_scale:
            self._loss_scale.state = counters.loss_scale
            self._scale_gradients()
        rates = zip(self._optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, base, factor in rates:
            group["lr"] = base * factor(counters.schedule_steps)

    def train_micro_batch(self, batch: Mapping[str, Tensor], teacher: Features, seed: int) -> None:
        """Run forward, backward and, after the last micro-batch of a step, the clipped optimizer step.

        If a loss or gradient of the step is not finite on any rank, no weight changes. That is decided on the device:
        this method does not wait for it.

        Args:
            batch: tensors [B, L] on the device.
            teacher: the teacher's features for this batch.
            seed: for dropout.
        """
        torch.manual_seed(seed)
        self.student.begin_step(self.steps, self.total_steps)
        self.student.loss_scale = self._loss_scale.scale if self._loss_scale else 1.0
        loss, terms = self.engine(batch, teacher)
        self.engine.backward(loss * self._loss_scale.scale if self._loss_scale and not self.sharded else loss)
        is_good = loss.detach().isfinite().float()
        self._step_is_bad = torch.maximum(self._step_is_bad, 1 - is_good)
        for name, value in terms.items():
            self._add(name, value, is_good)
        if self.engine.is_gradient_accumulation_boundary():  # ask before step(), which changes the answer
            self._step()
        else:
            self.engine.step()

    def _step(self) -> None:
        self._learning_rate = float(self.engine.optimizer.param_groups[0]["lr"])
        if self.world_size > 1:
            torch.distributed.all_reduce(self._step_is_bad, torch.distributed.ReduceOp.MAX)
        if not self.sharded:
            # The gradients are already averaged over ranks, so the norm is the same on all of them.
            grads = [p.grad for p in self.student.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(grads, foreach=True)
            # The optimizer divides gradients by this, which clips and unscales them without another pass
            divisor = self._loss_scale.scale if self._loss_scale else None
            if divisor is not None:
                norm = norm / divisor
            if self.max_grad_norm:
                clipping = (norm / self.max_grad_norm).clamp(min=1)
                divisor = clipping if divisor is None else clipping * divisor
            self._optimizer.grad_scale = divisor  # type: ignore[attr-defined]
            self._step_is_bad = torch.maximum(self._step_is_bad, 1 - norm.isfinite().float())
        # Fused AdamW changes nothing, not even its step count, if this is 1.
        self._optimizer.found_inf = self._step_is_bad  # type: ignore[attr-defined]
        self.engine.step()
        if self.sharded and self.engine.optimizer.overflow:
            self.schedule.step()  # DeepSpeed does not step it for skipped steps; at stage 0 it does
        if self.sharded:  # an infinite float if DeepSpeed skipped the step because gradients were not finite
            norm = torch.as_tensor(self.engine.get_global_grad_norm(), device=self.engine.device)
            self._step_is_bad = torch.maximum(self._step_is_bad, 1 - norm.isfinite().float())
        self._add("grad_norm", norm, 1 - self._step_is_bad)
        self._num_skipped = self._num_skipped + self._step_is_bad
        self._bad_in_a_row = (self._bad_in_a_row + 1) * self._step_is_bad
        self._most_bad_in_a_row = torch.maximum(self._most_bad_in_a_row, self._bad_in_a_row)
        if self._loss_scale:
            self._loss_scale.update(self._step_is_bad)
            self._scale_gradients()
        self._step_is_bad = torch.zeros_like(self._step_is_bad)

    def _scale_gradients(self) -> None:
        """Set ZeRO's loss scale, by which it multiplies the loss and divides norms and gradients."""
        if self._loss_scale and self.sharded:
            self.engine.optimizer.custom_loss_scaler = True
            # float() waits for the device, as ZeRO does anyway
            self.engine.optimizer.external_loss_scale = float(self._loss_scale.scale)

    def _add(self, name: str, value: Tensor, is_good: Tensor) -> None:
        # Sums stay on the device, so that nothing waits for it until take_metrics().
        value = torch.where(is_good > 0, value.detach().to(self.engine.device, torch.float32), 0.0)
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts[name] + is_good if name in self._counts else is_good

    @property
    def is_bad(self) -> bool:
        """Whether the last step was skipped although the loss scale is at its minimum. Waits for the device.

        Skipped steps that only lower the loss scale are normal. The answer is the same on every rank.
        """
        return bool(self._bad_in_a_row) and (self._loss_scale is None or self._loss_scale.is_least)

    def take_metrics(self) -> dict[str, float]:
        """Return mean losses since the last call, over the finite micro-batches of all ranks, and other metrics.

        `grad_norm` is the mean over the steps that changed weights, 0 if none did.
        `skipped_steps` counts the steps that changed nothing, `skipped_in_a_row` the longest run of them. Waits for the
        device once and makes one all-reduce; every rank must call it.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        counts = [self._counts[name].clamp(min=1) if name == "grad_norm" else self._counts[name] for name in names]
        sums = torch.stack([*(self._sums[name] for name in names), *counts])
        torch.distributed.all_reduce(sums)
        means = sums[: len(names)] / sums[len(names) :]
        # These two are already the same on every rank.
        skipped = torch.stack([self._num_skipped, self._most_bad_in_a_row])
        values = torch.cat([means, skipped]).tolist()
        self._sums, self._counts = {}, {}
        self._num_skipped, self._most_bad_in_a_row = torch.zeros_like(self._num_skipped), self._bad_in_a_row
        names += ["skipped_steps", "skipped_in_a_row"]
        return dict(zip(names, values, strict=True)) | {"learning_rate": self._learning_rate}
