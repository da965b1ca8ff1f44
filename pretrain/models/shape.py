"""The sizes of an encoder, read from its Hugging Face config alone."""

from dataclasses import dataclass
from typing import Any

from pretrain.models.family import Family, check_family, family_of


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of an encoder that decide what can be distilled from it or into it.

    Attributes:
        head_size: width of a head of the queries, where it is not hidden_size / num_attention_heads.
        sliding_layers: layers, from 1, whose tokens attend only to those within `window` tokens.
        is_rotary: whether queries and keys are rotated by their positions.
        has_layers: whether states, queries, keys and values can be read; of a task's LSTM only predictions can.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_row_tokens: int
    num_token_types: int = 2
    embedding_size: int | None = None  # only in families with factorised embeddings
    head_size: int | None = None
    sliding_layers: frozenset[int] = frozenset()
    window: int | None = None
    is_rotary: bool = False
    has_layers: bool = True

    @classmethod
    def of(cls, config: Any) -> "EncoderShape":
        """Return the sizes in a Hugging Face config. Raise ValueError if its family or positions are not supported."""
        own_shape: EncoderShape | None = getattr(config, "encoder_shape", None)
        if own_shape:  # of a class outside transformers, which has no layers
            return own_shape
        model_type = check_family(config)
        check_positions(config)
        own, width = getattr(config, "head_dim", None), config.hidden_size // config.num_attention_heads
        kinds = enumerate(getattr(config, "layer_types", None) or (), start=1)
        return cls(
            model_type,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            config.vocab_size,
            config.max_position_embeddings - row_offset(config),
            max(1, getattr(config, "type_vocab_size", None) or 0),
            getattr(config, "embedding_size", None),
            own if own and own != width else None,
            frozenset(number for number, kind in kinds if kind != "full_attention"),
            getattr(config, "sliding_window", None),
            bool(getattr(config, "rope_parameters", None)) or config.model_type == "roformer",
        )

    @property
    def family(self) -> Family:
        """What is known of the family by its name."""
        return family_of(self.model_type)

    @property
    def attention_size(self) -> int:
        """Width of all heads of the queries, and of keys and values repeated for as many."""
        return self.num_attention_heads * self.head_size if self.head_size else self.hidden_size

    def full_layer(self, wanted: int) -> int:
        """Return the layer nearest to the wanted one in which every token attends to all; the higher of two."""
        full = [layer for layer in range(1, self.num_layers + 1) if layer not in self.sliding_layers]
        return min(full or [wanted], key=lambda layer: (abs(layer - wanted), -layer))


def check_positions(config: Any) -> None:
    """Raise ValueError for positions that transformers 5 does not compute: it adds absolute ones, whatever is asked."""
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind not in ("absolute", "rotary"):
        raise ValueError(
            f"config.json: position_embedding_type {kind!r} is not computed by transformers 5, which adds absolute "
            "positions: take a model with these"
        )


def row_offset(config: Any) -> int:
    """Return the number of positions that no token can use: RoBERTa numbers positions from padding_idx + 1.

    Raise ValueError if such a model has no padding id.
    """
    if not family_of(config.model_type).numbers_after_padding:
        return 0
    if config.pad_token_id is None:
        raise ValueError(
            f"config.json: pad_token_id is null, but {config.model_type} numbers positions from it on: set the "
            "tokenizer's, mostly 1"
        )
    return int(config.pad_token_id) + 1
