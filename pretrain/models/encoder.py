"""Reading hidden states, queries, keys and values of Hugging Face encoders without computing more than needed.

Shapes: B rows, L tokens, D hidden width, H heads, K layers. Hidden state 0 is the embedding output and hidden state k
the output of layer k, normalised as the last one is in models whose layers normalise their input. Queries, keys and
values of layer k (1 to K) are [B, L, A], where A is the width of all heads, mostly D; keys and values that are shared
by several heads are repeated.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.models.attention import FASTEST_ATTENTION, Reading, additive, reading
from pretrain.models.shape import EncoderShape, row_offset
from pretrain.models.structure import accepted, final_norm, layers_of, projections_of, rotation_of, unrotated
from pretrain.models.vocabulary_head import VocabularyHead

HuggingFaceModel = Any  # its attributes differ by family
_COLUMNS = 8  # rows are cut to a multiple of this
_OPTIONAL = ("token_type_ids", "position_ids")
INPUTS = ("input_ids", "attention_mask", "document_ids", *_OPTIONAL)  # all tensors of a batch that are read


@dataclass(frozen=True)
class Reads:
    """What to read from an encoder.

    Attributes:
        hidden_states: numbers of hidden states, 0 to K.
        projections: layers, 1 to K, whose queries, keys and values are read, before they are rotated by positions.
        rotated: layers, 1 to K, whose queries and keys are read as attention compares them, after that.
        logits: the output of a task model's head.
    """

    hidden_states: frozenset[int] = frozenset()
    projections: frozenset[int] = frozenset()
    logits: bool = False
    rotated: frozenset[int] = frozenset()

    @property
    def num_layers(self) -> int:
        """The highest layer that is needed; the model can be cut above it."""
        return max(self.hidden_states | self.projections | self.rotated, default=0)


def union(reads: Iterable[Reads]) -> Reads:
    """Return the reads that cover all of the given ones."""
    every = list(reads)
    return Reads(
        frozenset().union(*(one.hidden_states for one in every)),
        frozenset().union(*(one.projections for one in every)),
        any(one.logits for one in every),
        frozenset().union(*(one.rotated for one in every)),
    )


@dataclass
class Features:
    """The features read in one forward pass: tensors [B, L, D] or [B, L, A] by layer.

    Attributes:
        rotated: queries and keys after rotation; those before it in models without.
        head: the masked-language head, which turns the last hidden state into logits; None if there is none.
        by_width: of an elastic teacher, the same of its narrower feed-forward layers, by their number of neurons.
        vector_map: a linear map [D, D] that a model's files put after the pooling, float32; None without.
        text_vectors: vectors of whole texts [B, D] in place of any states, where objectives read nothing else.
        logits: a task model's output: [B, C] over classes of a text, [B, L, C] over classes of each token,
            [B, L, 2] for the start and end of a span, or [B, 1] for rows that are a choice each.
        several: in place of all others, those of several teachers, each with its share of 1.
    """

    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    query: dict[int, Tensor] = field(default_factory=dict)
    key: dict[int, Tensor] = field(default_factory=dict)
    value: dict[int, Tensor] = field(default_factory=dict)
    rotated: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    head: VocabularyHead | None = None
    text_vectors: Tensor | None = None
    logits: Tensor | None = None
    several: "list[tuple[float, Features]]" = field(default_factory=list)
    vector_map: Tensor | None = None
    by_width: "dict[int, Features]" = field(default_factory=dict)

    def mapped(self, vectors: Tensor) -> Tensor:
        """Return pooled vectors [B, D] as the model's own files make them of these: through `vector_map`."""
        return vectors if self.vector_map is None else vectors @ self.vector_map.T

    def projection(self, name: str, layer: int, rotated: bool = False) -> Tensor:
        """Return the queries ("query"), keys or values of a layer; the first two after rotation if `rotated`."""
        if rotated and name != "value":
            return self.rotated[layer][name == "key"]
        read: dict[int, Tensor] = getattr(self, name)
        return read[layer]


class _EverythingRead(Exception):
    """Raised inside the model as soon as everything is read, so that nothing above is computed."""


class Encoder(nn.Module):
    """A Hugging Face encoder that returns exactly the requested features and computes nothing above them.

    Queries, keys and values are read where models hand them to transformers' attention interface, or, in families that
    do not use it, at the output of their projections. The input of the k-th layer is hidden state k - 1, including
    ALBERT with its shared layers. Reading only q, k and v of the last layer therefore skips its attention and
    feed-forward.

    Args:
        model: an encoder, or a task model that contains one, as from AutoModelForSequenceClassification. Its attention
            is set to the fastest on this machine. ValueError if its family is not supported, or it has no layers and
            more than its predictions shall be read.
        reads: what `forward` returns.

    Attributes:
        arithmetic: within which the model computes, such as `quantization.Rounding`.
    """

    def __init__(self, model: HuggingFaceModel, reads: Reads) -> None:
        super().__init__()
        self.arithmetic: AbstractContextManager[Any] = nullcontext()
        base = model.base_model
        self.model = model
        self.shape = EncoderShape.of(model.config)
        self.reads = self._reads = reads
        self._has_choices = type(model).__name__.endswith("ForMultipleChoice")
        self._layer = 0
        self._features: Features | None = None  # set only during forward(): the model stays usable without this class
        self._accepted = accepted(model, *_OPTIONAL)
        self._rotary: tuple[Tensor, Tensor] | None = None
        self._hooks: list[Any] = []
        if not self.shape.has_layers:
            if reads != Reads(logits=True):
                raise ValueError(f"a {self.shape.model_type} has no layers to read, only predictions")
            self._uses_interface = True
            return
        self._hooks.append(base.register_forward_hook(self._read_last))
        for layer in layers_of(base):
            self._hooks.append(layer.register_forward_pre_hook(self._read_input, with_kwargs=True))
        projections = projections_of(base)
        for modules in projections:
            for name, module in zip(("query", "key", "value"), modules, strict=True):
                self._hooks.append(module.register_forward_hook(self._reader_of(name)))
        self._uses_interface = not projections
        if self._uses_interface:
            model.set_attn_implementation(FASTEST_ATTENTION)
        norm = None if self.shape.family.is_bert else final_norm(base)
        self._norm = (norm,)  # in a tuple it is not registered as a submodule a second time

    def release(self) -> None:
        """Remove the hooks from the model, which stays usable; this object must not be called any more."""
        for hook in self._hooks:
            hook.remove()

    def forward(self, batch: Mapping[str, Tensor], reads: Reads | None = None) -> Features:
        """Run the model and return the features.

        Args:
            batch: `input_ids` [B, L]; optionally `token_type_ids` [B, L], `attention_mask` [B, L] (needed with
                padding), `document_ids` [B, L]: tokens then attend only to tokens with the same id, and padding must
                have an id that no document has; and `position_ids` [B, L], numbered from 0 in every family.
            reads: replaces the encoder's own `reads` in this call.
        """
        self._layer, self._features, self._reads = 0, Features(), reads or self.reads
        features, documents = self._features, batch.get("document_ids")
        inputs = {name: batch[name] for name in ("input_ids", *sorted(self._accepted)) if name in batch}
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + row_offset(self.model.config)
        mask = batch.get("attention_mask")
        if documents is not None and not self._uses_interface:
            same = documents[:, None, :, None] == documents[:, None, None, :]
            mask = additive(same, next(self.model.parameters()).dtype)
        if self._has_choices:  # it wants rows of choices [B, C, L]: here each row is a single choice
            inputs = {name: tensor.unsqueeze(1) for name, tensor in inputs.items()}
            mask = None if mask is None else mask.unsqueeze(1)
        try:
            with self.arithmetic, reading(Reading(self._read_heads, documents)):
                output = self.model(**inputs, attention_mask=mask)
            if self._reads.logits:
                features.logits = _logits(output)
        except _EverythingRead:
            pass
        finally:
            self._features = self._rotary = None
        return features

    def _read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._features is None:
            return
        if self._layer in self._reads.hidden_states:
            state = args[0] if args else kwargs["hidden_states"]
            norm = self._norm[0] if self._layer else None
            self._features.hidden_states[self._layer] = norm(state) if norm else state
        self._stop_if_done(self._features)
        self._rotary = kwargs.get("position_embeddings")
        self._layer += 1

    def _read_heads(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Read queries, keys and values [B, H, L, d] that a model hands to the attention interface."""
        read = self._features
        if read is None:
            return
        if self._layer in self._reads.rotated:
            read.rotated[self._layer] = _joined(query), _joined(key)
        if self._layer in self._reads.projections:
            rotate = rotation_of(module) if self._rotary else None
            if self._rotary and rotate:
                query, key = unrotated(rotate, query, key, *self._rotary)
            read.query[self._layer], read.key[self._layer] = _joined(query), _joined(key)
            read.value[self._layer] = _joined(value)
        self._stop_if_done(read)

    def _reader_of(self, name: str) -> Any:
        def read_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._features is not None and self._layer in self._reads.projections:
                # A projection may be used again, for positions (DeBERTa)
                getattr(self._features, name).setdefault(self._layer, output)
                self._stop_if_done(self._features)

        return read_output

    def _read_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._features is not None:  # `_layer` has reached the number of layers
            self._features.hidden_states[self._layer] = output.last_hidden_state

    def _stop_if_done(self, read: Features) -> None:
        wanted = self._reads
        if wanted.logits:
            return
        if len(read.hidden_states) == len(wanted.hidden_states) and (
            len(read.query) == len(read.key) == len(read.value) == len(wanted.projections)
            and len(read.rotated) == len(wanted.rotated)
        ):
            raise _EverythingRead


def _joined(heads: Tensor) -> Tensor:
    """Return [B, L, A] from heads [B, H, L, d]."""
    return heads.transpose(1, 2).flatten(2)


def _logits(output: Any) -> Tensor:
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: Tensor = output.logits
    return logits


def without_padding(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch without columns that are padding in every row, and without a mask that masks nothing.

    Rows are padded at their ends. Their number of tokens stays a multiple of 8, for the kernels, or as it was. For CPU
    tensors: a GPU would be waited for.
    """
    mask = batch["attention_mask"]
    longest = -(-int(mask.sum(1).max()) // _COLUMNS) * _COLUMNS
    if longest < mask.shape[1]:
        batch = {name: t[:, :longest] if t.shape == mask.shape else t for name, t in batch.items()}
    full = bool(batch["attention_mask"].all())
    return {name: tensor for name, tensor in batch.items() if not (full and name == "attention_mask")}


def real_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mask of real tokens, bool [B, L]: all of them if the batch has no `attention_mask`."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
