"""A student that is no encoder: a bidirectional LSTM with a maximum over tokens, which learns predictions alone.

It reads the rows of its teacher's tokenizer, so that one encoding serves both (arXiv:1903.12136, whose student reads
words). Its classes are transformers', so that it is saved as safetensors and config.json, and loads by its path with
the Auto classes wherever this module is imported.

Shapes: B rows, L tokens, E width of the embeddings, H width of each direction, C classes.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from pretrain.models.encoder import real_tokens
from pretrain.models.pretrained import load_encoder
from pretrain.models.shape import EncoderShape
from pretrain.precision import native_dtypes
from pretrain.settings import Settings
from pretrain.students.initialization import embedding_basis, seeded

KINDS = ("sentence", "pair")  # of tasks that it can learn


class BiLSTMSizes(Settings):
    """The sizes of a bidirectional LSTM that begins in this run, and its first embeddings.

    embeddings: "teacher" for the teacher's on their principal components, "scratch" for random ones; both are brought
        to the same size, a root mean square of 1.
    """

    hidden_size: PositiveInt = 384  # of each direction
    num_layers: PositiveInt = 1
    embedding_size: PositiveInt = 300
    embeddings: Literal["teacher", "scratch"] = "teacher"


class BiLSTMConfig(PreTrainedConfig):
    """What config.json holds.

    Attributes:
        kind: the kind of task: "sentence", or "pair" for two texts in a row.
        separator: of pairs, the token after each text.
        max_row_tokens: the most tokens of a row, which are its teacher's: an LSTM has no limit.
    """

    model_type = "bilstm"

    vocab_size: int = 1
    embedding_size: int = 300
    hidden_size: int = 384
    num_layers: int = 1
    kind: str = "sentence"
    separator: int | None = None
    max_row_tokens: int = 512

    @property
    def encoder_shape(self) -> EncoderShape:
        """The sizes as other code asks for them: without layers whose states or attention could be read."""
        return EncoderShape(
            self.model_type, self.num_layers, 2 * self.hidden_size, 0, 0, self.vocab_size, self.max_row_tokens,
            embedding_size=self.embedding_size, has_layers=False,
        )  # fmt: skip


class BiLSTMModel(PreTrainedModel):
    """Embeddings and the LSTM, without a head."""

    config_class, base_model_prefix, main_input_name = BiLSTMConfig, "bilstm", "input_ids"

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(0.0)
        self.lstm = nn.LSTM(
            config.embedding_size, config.hidden_size, config.num_layers, batch_first=True, bidirectional=True
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings [B, L, E] of tokens [B, L]."""
        vectors: Tensor = self.dropout(self.word_embeddings(input_ids))
        return vectors

    def states(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the states [B, L, 2H] of embeddings [B, L, E] whose real tokens, by the mask [B, L], come first."""
        lengths = mask.sum(1).clamp(min=1).cpu()  # packing waits for the device to know them
        with _lstm_arithmetic(vectors.device):
            packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
        return states

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Return `last_hidden_state` [B, L, 2H]."""
        mask = _mask(input_ids, attention_mask)
        return BaseModelOutput(last_hidden_state=self.states(self.embed(input_ids), mask))


class BiLSTMForSequenceClassification(PreTrainedModel):
    """The maximum of the states over the tokens of a text, and a linear layer.

    Of a pair both texts are read by the same LSTM, and u and v become [u, v, u * v, |u - v|].
    """

    config_class, base_model_prefix, main_input_name = BiLSTMConfig, "bilstm", "input_ids"

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        self.bilstm = BiLSTMModel(config)
        self.dropout = nn.Dropout(0.0)
        num_vectors = 4 if config.kind == "pair" else 1
        self.classifier = nn.Linear(num_vectors * 2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SequenceClassifierOutput:
        """Return `logits` [B, C]."""
        mask, vectors = _mask(input_ids, attention_mask), self.bilstm.embed(input_ids)
        if self.config.kind == "pair":
            vectors, mask = _two_texts(vectors, mask, input_ids == self.config.separator)
        pooled = _largest(self.bilstm.states(vectors, mask), mask)
        if self.config.kind == "pair":
            u, v = pooled.chunk(2)
            pooled = torch.cat([u, v, u * v, (u - v).abs()], 1)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))


AutoConfig.register("bilstm", BiLSTMConfig, exist_ok=True)
AutoModel.register(BiLSTMConfig, BiLSTMModel, exist_ok=True)
AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification, exist_ok=True)


def _lstm_arithmetic(device: torch.device) -> AbstractContextManager[object]:
    """Return autocast switched off on CPUs without the wanted type: oneDNN has no LSTM for a type that it emulates."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return nullcontext()
    wanted = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.")
    return nullcontext() if wanted in native_dtypes("cpu") else torch.autocast("cpu", enabled=False)


def _mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    batch = {"input_ids": input_ids}
    return real_tokens(batch if attention_mask is None else {**batch, "attention_mask": attention_mask})


def _two_texts(vectors: Tensor, mask: Tensor, separators: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings [2B, L, E] and masks [2B, L] of rows of two texts [B, L]: all first texts, then all second.

    The first text ends with the first separator; the second is what follows, moved to the beginning.
    """
    place = torch.arange(mask.shape[1], device=mask.device)  # [L]
    ends = separators.long()
    first = mask & (ends.cumsum(1) - ends == 0)
    num_first = first.sum(1, keepdim=True)
    moved = (place + num_first).clamp(max=mask.shape[1] - 1).unsqueeze(-1).expand(-1, -1, vectors.shape[-1])
    second = place < mask.sum(1, keepdim=True) - num_first
    return torch.cat([vectors, vectors.gather(1, moved)]), torch.cat([first, second])


def _largest(states: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum [B, D] of states [B, L, D] over the real tokens of each row; zeros for a row without any."""
    pooled = states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
    return pooled.masked_fill(~mask.any(1, keepdim=True), 0.0)


@torch.no_grad()
def build_bilstm(sizes: BiLSTMSizes, kind: str, teacher: str, separator: int | None, seed: int) -> BiLSTMModel:
    """Build a student for a kind of task and a teacher, reproducibly for a seed.

    Args:
        teacher: the folder or hub id of an encoder, whose vocabulary, and mostly embeddings, it takes over.
        separator: the token that the teacher's tokenizer puts after each text of a pair; None if it puts none.

    Raises:
        ValueError: if the teacher cannot be loaded, or a pair has no separator.
    """
    model = load_encoder(teacher)
    if kind == "pair" and separator is None:
        raise ValueError(
            f"{teacher}: its tokenizer has no sep_token, by which a BiLSTM tells the two texts of a pair apart; use a "
            "published student"
        )
    words: Any = model.get_input_embeddings().weight
    config = BiLSTMConfig(
        vocab_size=len(words),
        embedding_size=sizes.embedding_size,
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers,
        kind=kind,
        separator=separator if kind == "pair" else None,
        max_row_tokens=EncoderShape.of(model.config).max_row_tokens,
    )
    with seeded(seed):
        student, width = BiLSTMModel(config), sizes.embedding_size
        is_random = sizes.embeddings == "scratch"
        vectors = torch.randn(len(words), width) if is_random else words @ embedding_basis(words, width)
        # No norm follows as in BERT, and from numbers as small as its embeddings' an LSTM learns slowly
        student.word_embeddings.weight.copy_(vectors / vectors.square().mean().sqrt())
    return student
