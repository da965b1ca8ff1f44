"""The time of a training step on GPUs and a network of which only the figures are known: arithmetic alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Every field is an assumption."""

    tflops: float = 400.0  # dense bfloat16 that large products reach on one GPU
    gbit: float = 400.0  # a NIC's, one a GPU, each way
    teacher_share: float = 0.5  # of tflops that a whole forward pass keeps
    student_share: float = 0.25  # narrower matrices, softmax
    memory_bytes: float = 3e12  # a second
    relation_passes: int = 26  # over [R, L, L] in float32, of each relation by the portable kernel
    gpus_per_node: int = 8
    nvlink_bytes: float = 450e9  # a second, each way
    network_share: float = 0.8  # of a NIC's bandwidth that collectives reach
    hop_seconds: float = 10e-6  # of a message between nodes
    launch_seconds: float = 20e-6  # of the host, for a kernel: Python, autograd and the launch
    disk_bytes: float = 0.5e9  # a second, of one writer: written, synced, read back and checksummed
    gpu_mtbf_hours: float = 50_000.0  # 419 interruptions in 54 days of 16,384 GPUs (arXiv 2407.21783)
    bytes_per_token: float = 0.99  # compressed WordPiece ids (bench/README.md)
    loader_tokens: float = 145e6  # a second and a core (bench/README.md)

    def all_reduce_seconds(self, num_bytes: float, gpus: int) -> float:
        """Reduce-scatter and all-gather within nodes, and a ring or tree between them, each GPU a share by its NIC."""
        inside = min(gpus, self.gpus_per_node)
        nodes = -(-gpus // self.gpus_per_node)
        seconds = 2 * (inside - 1) / inside * num_bytes / self.nvlink_bytes
        if nodes > 1:
            nic_bytes = self.gbit * 1e9 / 8 * self.network_share
            seconds += 2 * (nodes - 1) / nodes * num_bytes / inside / nic_bytes
            seconds += 2 * math.log2(nodes) * self.hop_seconds
        return seconds


@dataclass(frozen=True)
class StudentWork:
    """What training a student takes.

    Attributes:
        operations: of a token, forward and backward, losses included.
        relation_numbers: of a token, R x L of every relation that its losses compare.
        gradients: numbers that ranks sum up after a step: its trained parameters.
    """

    num_layers: int
    operations: float
    relation_numbers: float
    gradients: int


@dataclass(frozen=True)
class Work:
    """What a token of a run takes: operations of the teacher's pass, up to a layer, and the work of every student."""

    teacher_layer: int
    teacher_operations: float
    students: Sequence[StudentWork]


@dataclass(frozen=True)
class Step:
    """One optimizer step of `tokens` on all GPUs together. Seconds: of the device for teacher and students, of the host
    for all launches. The host runs ahead of the device, so the longer of the two sums counts."""

    micro_rows: int
    accumulation: int
    teacher: float
    students: float
    host: float
    all_reduce: float
    tokens: int

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return max(self.teacher + self.students, self.host) + self.all_reduce


def teacher_kernels(layer: int) -> int:
    """Kernels of a pass to q, k and v of a layer with fused attention (a test counts them)."""
    return max(12 * (layer - 1) + 9, 0)


def student_kernels(num_layers: int) -> int:
    """Kernels of a micro-batch of one student: forward under autocast, the portable kernel's relations, backward and
    AdamW (a test counts them)."""
    return 72 * num_layers + 152


def plan_step(
    hardware: Hardware, gpus: int, work: Work, row_tokens: int, micro_rows: int, accumulation: int = 1
) -> Step:
    """Return the step in which every GPU computes so many micro-batches. Gradients are float32.

    DeepSpeed reduces after the last micro-batch, so nothing of it hides behind the backward pass.
    """
    tokens, rate = accumulation * micro_rows * row_tokens, hardware.tflops * 1e12
    student_seconds = 0.0
    for student in work.students:
        traffic = 4 * hardware.relation_passes * student.relation_numbers
        seconds = student.operations / (rate * hardware.student_share) + traffic / hardware.memory_bytes
        student_seconds += tokens * seconds
    kernels = teacher_kernels(work.teacher_layer) + sum(student_kernels(one.num_layers) for one in work.students)
    return Step(
        micro_rows,
        accumulation,
        work.teacher_operations * tokens / (rate * hardware.teacher_share),
        student_seconds,
        hardware.launch_seconds * kernels * accumulation,
        sum_gradients(hardware, gpus, work),
        tokens * gpus,
    )


def sum_gradients(hardware: Hardware, gpus: int, work: Work) -> float:
    """Return the seconds in which all GPUs sum the float32 gradients of every student, one after another."""
    each = (hardware.all_reduce_seconds(4 * student.gradients, gpus) for student in work.students)
    return sum(each) if gpus > 1 else 0.0
