"""The frozen teacher: loaded once, cut above the highest layer read, never trained and never in a checkpoint."""

from collections.abc import Callable, Iterable, Mapping

import torch
import xxhash
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from pretrain.models.encoder import Encoder, Features, HuggingFaceModel, Reads, union
from pretrain.models.packed_linear import can_pack, pack_linears
from pretrain.models.pretrained import load_encoder, load_model, read_shape
from pretrain.models.structure import cut_layers
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.precision import WantedDtype, choose_dtype
from pretrain.progress import Progress
from pretrain.settings import Settings

TeacherFunction = Callable[[Mapping[str, Tensor]], Features]


class TeacherConfig(Settings):
    """The frozen teacher and the precision it computes in."""

    path: str  # a folder or a hub id
    dtype: WantedDtype = "auto"  # auto: the best of bfloat16, float16 and float32 that is native to the device


def load_teacher_head(
    path: str, needed_by: str = "distilbert", otherwise: str = "an objective that needs none"
) -> VocabularyHead:
    """Return the teacher's masked-language head in float32 on the CPU; its `model.base_model` is the encoder.

    Args:
        needed_by, otherwise: what needs the head and what works without it, for messages.

    Raise ValueError if the teacher has no weights for such a head: transformers would make them random.
    """
    shape = read_shape(path)
    if not shape.family.has_head:
        raise ValueError(
            f"{path!r}: a {shape.model_type} model has no masked-language head, which {needed_by} needs; use "
            f"{otherwise}"
        )
    model, drawn = load_model(AutoModelForMaskedLM, path)
    if missing := sorted(drawn):
        raise ValueError(
            f"{path!r} has no masked-language head, which {needed_by} needs (missing: {missing[0]} and "
            f"{len(missing) - 1} more); use a teacher saved with its head, or {otherwise}"
        )
    return VocabularyHead(model)


@Progress("loading the teacher")
def load_teacher(path: str, needs_head: bool) -> tuple[HuggingFaceModel, VocabularyHead | None]:
    """Load a teacher from a folder or hub id: the encoder in float32 on the CPU, and its masked-language head or None.

    Raise ValueError if it cannot be loaded, its family is not supported, weights are missing or not finite, or it lacks
    the head that `needs_head` asks for.
    """
    head = load_teacher_head(path) if needs_head else None
    return head.model.base_model if head else load_encoder(path), head


class Teacher(nn.Module):
    """A frozen encoder that returns the features that objectives read, in low precision and without gradients.

    Args:
        model: the Hugging Face encoder. Layers above the highest one read are removed from it.
        reads: what each student reads (`Student.teacher_reads`); one pass serves all.
        dtype: the type its weights are converted to; "auto" for the best type native to the device.
        head: its masked-language head, if an objective reads that.
        vector_map: see Features.
    """

    def __init__(
        self,
        model: HuggingFaceModel,
        reads: Iterable[Reads],
        dtype: WantedDtype,
        device: torch.device | str,
        head: VocabularyHead | None = None,
        vector_map: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.vector_map = None if vector_map is None else vector_map.to(device)
        self.encoder = Encoder(model, union(reads))
        if not self.encoder.reads.logits:  # a task's head reads the last layer
            cut_layers(model.base_model, self.encoder.reads.num_layers)
        self.requires_grad_(False).eval().to(device, getattr(torch, choose_dtype(dtype, device)))
        if can_pack(model):
            pack_linears(model)

    def train(self, mode: bool = True) -> "Teacher":
        """Raise RuntimeError for training mode: the teacher stays in evaluation mode."""
        if mode:
            raise RuntimeError("the teacher is frozen: it cannot be put in training mode")
        return super().train(False)

    # Not inference_mode, whose tensors cannot be saved for a student's backward pass.
    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Features:
        """Return the features [B, L, D_teacher] of a batch of `input_ids` [B, L] and so on (see Encoder.forward)."""
        features: Features = self.encoder(batch)
        features.head, features.vector_map = self.head, self.vector_map
        return features


def no_teacher(batch: Mapping[str, Tensor]) -> Features:
    """Stand in for a teacher in runs without one: return no features."""
    return Features()


@Progress("fingerprinting the weights")
def fingerprint(model: nn.Module) -> str:
    """Return a hash of all weights, of their names, shapes and bits, by which a run recognises its teacher."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
