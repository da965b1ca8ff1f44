"""Hugging Face encoders: their sizes, and reading hidden states and projections without computing more than needed.

Shapes: B rows, L tokens, D hidden width, H heads, K layers. Hidden state 0 is the embedding output and hidden state k
the output of layer k; the queries, keys and values of layer k (1 to K) are the outputs of its three projections,
[B, L, D].
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.models.attention import FASTEST_ATTENTION
from pretrain.models.family import FAMILIES, check_family
from pretrain.models.vocabulary_head import VocabularyHead

HuggingFaceModel = Any  # its attributes differ by family
_COLUMNS = 8  # rows are cut to a multiple of this


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of an encoder that decide what can be distilled from it or into it."""

    model_type: str
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_row_tokens: int
    num_token_types: int = 2
    embedding_size: int | None = None  # only in families with factorised embeddings

    @classmethod
    def of(cls, config: Any) -> "EncoderShape":
        """Return the sizes in a Hugging Face config. Raise ValueError if its family or positions are not supported."""
        family = check_family(config.model_type)
        check_positions(config)
        return cls(
            family,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.vocab_size,
            config.max_position_embeddings - row_offset(config),
            config.type_vocab_size,
            getattr(config, "embedding_size", None),
        )


def check_positions(config: Any) -> None:
    """Raise ValueError for positions that transformers 5 does not compute: it adds absolute ones, whatever is asked."""
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind != "absolute":
        raise ValueError(
            f"config.json: position_embedding_type {kind!r} is not computed by transformers 5, which adds absolute "
            "positions: take a model with these"
        )


def row_offset(config: Any) -> int:
    """Return the number of positions that no token can use: RoBERTa numbers positions from padding_idx + 1.

    Raise ValueError if such a model has no padding id.
    """
    if not FAMILIES[config.model_type].numbers_after_padding:
        return 0
    if config.pad_token_id is None:
        raise ValueError(
            f"config.json: pad_token_id is null, but {config.model_type} numbers positions from it on: set the "
            "tokenizer's, mostly 1"
        )
    return int(config.pad_token_id) + 1


@dataclass(frozen=True)
class Reads:
    """What to read from an encoder."""

    hidden_states: frozenset[int] = frozenset()  # indices, 0 to K
    projections: frozenset[int] = frozenset()  # layers, 1 to K, whose queries, keys and values are read
    logits: bool = False  # the output of a task model's head

    @property
    def num_layers(self) -> int:
        """The highest layer that is needed; the model can be cut above it."""
        return max(self.hidden_states | self.projections, default=0)


def union(reads: Iterable[Reads]) -> Reads:
    """Return the reads that cover all of the given ones."""
    every = list(reads)
    return Reads(
        frozenset().union(*(one.hidden_states for one in every)),
        frozenset().union(*(one.projections for one in every)),
        any(one.logits for one in every),
    )


@dataclass
class Features:
    """The features read in one forward pass: tensors [B, L, D] by layer.

    Attributes:
        head: the masked-language head, which turns the last hidden state into logits; None if there is none.
        text_vectors: vectors of whole texts [B, D] in place of any states, where objectives read nothing else.
        logits: a task model's output: [B, C] over classes of a text, [B, L, C] over classes of each token, or
            [B, L, 2] for the start and end of a span.
    """

    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    query: dict[int, Tensor] = field(default_factory=dict)
    key: dict[int, Tensor] = field(default_factory=dict)
    value: dict[int, Tensor] = field(default_factory=dict)
    head: VocabularyHead | None = None
    text_vectors: Tensor | None = None
    logits: Tensor | None = None


class _EverythingRead(Exception):
    """Raised inside the model as soon as everything is read, so that nothing above is computed."""


class Encoder(nn.Module):
    """A Hugging Face encoder that returns exactly the requested features and computes nothing above them.

    Forward hooks collect the features inside the model: the input of the k-th self-attention is hidden state k - 1 in
    every post-norm family, including ALBERT with its shared layers, and the three projections return q, k and v before
    they are split into heads. Reading only q, k and v of the last layer therefore skips its attention and feed-forward.

    Args:
        model: an encoder, or a task model that contains one, as from AutoModelForSequenceClassification. Its attention
            is set to the fastest on this machine. ValueError if its family is not supported.
        reads: what `forward` returns.
    """

    def __init__(self, model: HuggingFaceModel, reads: Reads) -> None:
        super().__init__()
        model.set_attn_implementation(FASTEST_ATTENTION)
        self.model = model
        self.shape = EncoderShape.of(model.config)
        self.reads = self._reads = reads
        self._layer = 0
        self._features: Features | None = None  # set only during forward(): the model stays usable without this class
        self._hooks = [model.base_model.register_forward_hook(self._read_last)]
        for module in model.modules():
            if all(hasattr(module, name) for name in ("query", "key", "value")):
                self._hooks.append(module.register_forward_pre_hook(self._read_input, with_kwargs=True))
                for name in ("query", "key", "value"):
                    self._hooks.append(getattr(module, name).register_forward_hook(self._reader_of(name)))

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
        features = self._features
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids") if name in batch}
        if "position_ids" in batch:
            inputs["position_ids"] = batch["position_ids"] + row_offset(self.model.config)
        try:
            output = self.model(**inputs, attention_mask=self._key_mask(batch))
            if self._reads.logits:
                features.logits = _logits(output)
        except _EverythingRead:
            pass
        finally:
            self._features = None
        return features

    def _key_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Return the mask [B, 1, 1 or L, L] in the form the attention needs; transformers passes it on unchanged."""
        if "document_ids" in batch:
            mask = batch["document_ids"][:, None, :, None] == batch["document_ids"][:, None, None, :]
        elif "attention_mask" in batch:
            mask = batch["attention_mask"][:, None, None, :].bool()
        else:
            return None
        if FASTEST_ATTENTION == "fused":
            return mask
        dtype = next(self.model.parameters()).dtype
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)

    def _read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._features is None:
            return
        if self._layer in self._reads.hidden_states:
            self._features.hidden_states[self._layer] = args[0] if args else kwargs["hidden_states"]
        self._stop_if_done(self._features)
        self._layer += 1

    def _reader_of(self, name: str) -> Any:
        def read_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._features is not None and self._layer in self._reads.projections:
                getattr(self._features, name)[self._layer] = output
                self._stop_if_done(self._features)

        return read_output

    def _read_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._features is not None:  # `_layer` has reached the number of layers
            self._features.hidden_states[self._layer] = output.last_hidden_state

    def _stop_if_done(self, read: Features) -> None:
        if self._reads.logits:
            return
        if len(read.hidden_states) == len(self._reads.hidden_states) and (
            len(read.query) == len(read.key) == len(read.value) == len(self._reads.projections)
        ):
            raise _EverythingRead


def _logits(output: Any) -> Tensor:
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: Tensor = output.logits
    return logits


def cut_layers(model: HuggingFaceModel, num_layers: int) -> None:
    """Remove the layers above `num_layers` from the model, except ALBERT's shared ones, which take no memory."""
    encoder = getattr(model, "encoder", None)
    if encoder is not None and hasattr(encoder, "layer"):
        del encoder.layer[num_layers:]


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
