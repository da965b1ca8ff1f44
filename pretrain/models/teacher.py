"""The frozen teacher: loaded once, cut above the highest layer read, never trained, never in a checkpoint."""

from collections.abc import Callable, Iterable, Mapping

import torch
import xxhash
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from pretrain.models.encoder import Encoder, Features, HuggingFaceModel, Reads, cut_layers, union
from pretrain.models.packed_linear import can_pack, pack_linears
from pretrain.models.pretrained import load_encoder, load_model, read_shape
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.precision import WantedDtype, choose_dtype
from pretrain.progress import Progress
from pretrain.settings import Settings

TeacherFunction = Callable[[Mapping[str, Tensor]], Features]


class TeacherConfig(Settings):
    """A frozen model: a hub id or a folder, and the precision it computes in."""

    path: str
    dtype: WantedDtype = "auto"  # auto: bfloat16, float16 or float32, whichever the device multiplies natively


def load_teacher_head(path: str) -> VocabularyHead:
    """The teacher's masked-language head, and in its `model.base_model` the encoder, in float32 on the CPU.

    ValueError where the weights of a head are not among the teacher's: transformers would make random ones.
    """
    read_shape(path)
    model, drawn = load_model(AutoModelForMaskedLM, path)
    if missing := sorted(drawn):
        raise ValueError(
            f"{path!r} has no masked-language head, which distilbert needs (missing: {missing[0]} and "
            f"{len(missing) - 1} more); take a teacher saved with its head, or an objective without one"
        )
    return VocabularyHead(model)


@Progress("loading the teacher")
def load_teacher(path: str, needs_head: bool) -> tuple[HuggingFaceModel, VocabularyHead | None]:
    """The encoder, with its masked-language head where an objective reads that."""
    head = load_teacher_head(path) if needs_head else None
    return head.model.base_model if head else load_encoder(path), head


class Teacher(nn.Module):
    """A frozen encoder that returns what the students' objectives read, in low precision and without gradients."""

    def __init__(
        self,
        model: HuggingFaceModel,
        reads: Iterable[Reads],
        dtype: WantedDtype,
        device: torch.device | str,
        head: VocabularyHead | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.encoder = Encoder(model, union(reads))
        cut_layers(model, self.encoder.reads.num_layers)
        self.requires_grad_(False).eval().to(device, getattr(torch, choose_dtype(dtype, device)))
        if can_pack(model):
            pack_linears(model)

    def train(self, mode: bool = True) -> "Teacher":
        """Frozen is enforced, not remembered: RuntimeError for train()."""
        if mode:
            raise RuntimeError("the teacher is frozen: it cannot be put in training mode")
        return super().train(False)

    # Not inference_mode: its tensors cannot be saved for a student's backward pass.
    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Features:
        """One pass for all students; every feature is [B, L, D_teacher]."""
        features: Features = self.encoder(batch)
        features.head = self.head
        return features


def no_teacher(batch: Mapping[str, Tensor]) -> Features:
    """The teacher of a run that has none: nothing to read."""
    return Features()


@Progress("fingerprinting the weights")
def fingerprint(model: nn.Module) -> str:
    """Hash of every weight, by name, shape and bits: what the run remembers of its teacher."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
