"""Everything this project knows about Hugging Face encoders: what can be read out of one, and where to stop.

Shapes: B rows, L tokens, D hidden width, H heads, K layers. Hidden state 0 is the embedding output and hidden state k
the output of layer k; the queries, keys and values of layer k (1 to K) are what its three projections give, [B, L, D].
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pretrain.models.attention import FASTEST_ATTENTION
from pretrain.models.vocabulary_head import VocabularyHead

# Families whose self-attention is a module with `query`, `key` and `value` projections: each is tested, tiny.
Family = Literal["bert", "roberta", "xlm-roberta", "ernie", "electra", "albert"]
FAMILIES: tuple[Family, ...] = get_args(Family)
HuggingFaceModel = Any  # its attributes differ by family


@dataclass(frozen=True)
class EncoderShape:
    """The sizes that decide what can be distilled from or into an encoder."""

    model_type: str
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_row_tokens: int
    num_token_types: int = 2
    embedding_size: int | None = None  # of families with factorised embeddings

    @classmethod
    def of(cls, config: Any) -> "EncoderShape":
        """Read the sizes off a Hugging Face config; ValueError for a family this project does not know."""
        if config.model_type not in FAMILIES:
            raise ValueError(f"model_type {config.model_type!r} is not supported; supported are {', '.join(FAMILIES)}")
        return cls(
            config.model_type,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.vocab_size,
            config.max_position_embeddings - row_offset(config),
            config.type_vocab_size,
            getattr(config, "embedding_size", None),
        )


def row_offset(config: Any) -> int:
    """Positions that no row can use: RoBERTa numbers its own from padding_idx + 1 on."""
    return int(config.pad_token_id) + 1 if config.model_type in ("roberta", "xlm-roberta") else 0


@dataclass(frozen=True)
class Reads:
    """What is read of an encoder: hidden states by index (0 to K), layers (1 to K) whose q, k and v are read, and
    `logits`, what a task's head makes of it all."""

    hidden_states: frozenset[int] = frozenset()
    projections: frozenset[int] = frozenset()
    logits: bool = False

    @property
    def num_layers(self) -> int:
        """Layers that must be there: no layer above this one is needed at all."""
        return max(self.hidden_states | self.projections, default=0)


def union(reads: Iterable[Reads]) -> Reads:
    """What serves all of them."""
    every = list(reads)
    return Reads(
        frozenset().union(*(one.hidden_states for one in every)),
        frozenset().union(*(one.projections for one in every)),
        any(one.logits for one in every),
    )


@dataclass
class Features:
    """What was read in one forward pass; every tensor is [B, L, D]. `head` makes logits of the last hidden state.

    `logits` are a task model's: [B, C] of a text's classes, [B, L, C] of each token's, [B, L, 2] of start and end.
    """

    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    query: dict[int, Tensor] = field(default_factory=dict)
    key: dict[int, Tensor] = field(default_factory=dict)
    value: dict[int, Tensor] = field(default_factory=dict)
    head: VocabularyHead | None = None
    logits: Tensor | None = None


class _EverythingRead(Exception):
    """Raised inside the model once the last thing asked for is there, so that nothing above it is computed."""


class Encoder(nn.Module):
    """A Hugging Face encoder that returns exactly the features asked for and computes nothing above them.

    `model` may be a task model around one, such as AutoModelForSequenceClassification gives.

    Forward hooks take them where the model makes them: the input of the k-th self-attention is hidden state k - 1 in
    every post-norm family, ALBERT's shared layers included, and the three projections give q, k and v before they are
    split into heads. Reading only q, k, v of the last layer therefore skips its attention, output and feed-forward.
    """

    def __init__(self, model: HuggingFaceModel, reads: Reads) -> None:
        super().__init__()
        model.set_attn_implementation(FASTEST_ATTENTION)
        self.model = model
        self.shape = EncoderShape.of(model.config)
        self.reads = self._reads = reads
        self._layer = 0
        self._features: Features | None = None  # only while forward() reads: the model stays usable as it is
        self._hooks = [model.base_model.register_forward_hook(self._read_last)]
        for module in model.modules():
            if all(hasattr(module, name) for name in ("query", "key", "value")):
                self._hooks.append(module.register_forward_pre_hook(self._read_input, with_kwargs=True))
                for name in ("query", "key", "value"):
                    self._hooks.append(getattr(module, name).register_forward_hook(self._reader_of(name)))

    def release(self) -> None:
        """Take the hooks off a model that goes on elsewhere; this encoder reads nothing more."""
        for hook in self._hooks:
            hook.remove()

    def forward(self, batch: Mapping[str, Tensor], reads: Reads | None = None) -> Features:
        """Features of `input_ids`, `token_type_ids` [B, L] and, where there is padding, `attention_mask` [B, L].

        With `document_ids` [B, L] a token attends only to tokens of its own id; padding has one of its own. `reads`, of
        this call alone, stand in for the encoder's own.
        """
        self._layer, self._features, self._reads = 0, Features(), reads or self.reads
        features = self._features
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids") if name in batch}
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
        """[B, 1, 1 or L, L], as the attention in use wants it: made here, once, transformers takes it as it is."""
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
        if self._features is not None:  # by now `_layer` is the number of layers that are there
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
    """Drop the layers above `num_layers` (shared ALBERT layers stay: they cost nothing there)."""
    encoder = getattr(model, "encoder", None)
    if encoder is not None and hasattr(encoder, "layer"):
        del encoder.layer[num_layers:]


def without_padding(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop an attention mask that masks nothing; decided on CPU tensors, so no GPU is waited for."""
    full = bool(batch["attention_mask"].all())
    return {name: tensor for name, tensor in batch.items() if not (full and name == "attention_mask")}


def real_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """The 0/1 mask of real tokens, bool [B, L], whether or not the batch carries one."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
