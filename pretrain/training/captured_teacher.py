"""The teacher's pass as a CUDA graph, for batches so small that launching its kernels takes longer than they run."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.models.encoder import INPUTS, Features
from pretrain.models.teacher import Teacher, TeacherFunction

MAX_SHAPES = 8  # of batches that are captured: each keeps its inputs and features in the device's memory


@dataclass(frozen=True)
class Capture:
    """A pass that can be repeated: `replay` reads `inputs` and overwrites the tensors of `features`."""

    inputs: dict[str, Tensor]
    replay: Callable[[], None]
    features: Features


class CapturedTeacher:
    """A teacher whose pass on a batch of a shape that has been seen is one launch instead of hundreds.

    The features of a batch are valid until the next call, which overwrites them. Batches of further shapes than
    MAX_SHAPES are computed as usual, and so are all if the pass cannot be captured, with a warning.

    Args:
        capture: computes a pass on copies of inputs in a way that can be repeated.
    """

    def __init__(
        self, teacher: Teacher, capture: Callable[[TeacherFunction, Mapping[str, Tensor]], Capture] | None = None
    ) -> None:
        self._teacher, self._capture = teacher, capture or CudaCapture()
        self._captures: dict[object, Capture] = {}
        self._max_shapes = MAX_SHAPES

    def __call__(self, batch: Mapping[str, Tensor]) -> Features:
        """Return the features of a batch (see Teacher.forward)."""
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        shape = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        if shape not in self._captures and not self._add(shape, inputs):
            return self._teacher(batch)
        capture = self._captures[shape]
        for name, tensor in inputs.items():
            capture.inputs[name].copy_(tensor, non_blocking=True)
        capture.replay()
        return capture.features

    def _add(self, shape: object, inputs: Mapping[str, Tensor]) -> bool:
        """Capture a pass on batches of this shape; return whether that could be done."""
        if len(self._captures) >= self._max_shapes:
            return False
        try:
            self._captures[shape] = self._capture(self._teacher, inputs)
        except RuntimeError as error:  # an operation that waits for the device, for example; or no memory
            self._max_shapes = len(self._captures)
            reason = " ".join(str(error).split())[:300]
            warnings.warn(
                f"teacher.capture: the teacher's pass cannot be captured and is computed as usual: {reason}",
                stacklevel=2,
            )
            return False
        return True


def captured(teacher: TeacherFunction, device: torch.device) -> TeacherFunction:
    """Return the teacher with its pass captured; with a warning, the teacher as it is where that cannot be."""
    if device.type == "cuda" and isinstance(teacher, Teacher):
        return CapturedTeacher(teacher)
    why = (
        f"a {device.type} has no CUDA graphs" if isinstance(teacher, Teacher) else "objectives read text vectors alone"
    )
    warnings.warn(f"teacher.capture: the teacher's pass is not captured: {why}", stacklevel=2)
    return teacher


class CudaCapture:
    """Captures passes as CUDA graphs. They share memory for what is computed in between: only one replays at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, teacher: TeacherFunction, inputs: Mapping[str, Tensor]) -> Capture:
        """Capture a pass on batches like these inputs. RuntimeError if one of its operations cannot be captured."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        before = torch.cuda.Stream()
        before.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(before):  # libraries choose kernels and take memory in their first calls
            for _ in range(2):
                teacher(own)
        torch.cuda.current_stream().wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that copies batches, go on meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            features = teacher(own)
        return Capture(own, graph.replay, features)
