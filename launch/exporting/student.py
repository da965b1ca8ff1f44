"""The student to export: its encoder or task model, its tokenizer, and the modules that make vectors of texts."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer
from transformers import AutoModelForSequenceClassification as SequenceClassification
from transformers import AutoModelForTokenClassification as TokenClassification

from corpus.vocabulary.pieces import pieces_by_id
from launch.exporting.sentence_modules import SentenceVectors, read_sentence_vectors
from pretrain.models.pretrained import check_vocabulary, load_encoder, load_model, load_pretrained
from pretrain.models.shape import EncoderShape

BYTES_OF_A_FILE = 2_000_000_000  # an ONNX file is one protobuf message, of at most 2 GiB
_HEADS = {
    "ForSequenceClassification": (SequenceClassification, ("logits",)),
    "ForTokenClassification": (TokenClassification, ("logits",)),
    "ForQuestionAnswering": (AutoModelForQuestionAnswering, ("start_logits", "end_logits")),
}
_LEFT_OUT = ("ForMaskedLM", "ForPreTraining")  # heads of words, which a general student is served without


class Answers(nn.Module):
    """A model with the inputs and outputs of its ONNX graph.

    Attributes:
        inputs: names of the inputs [B, L], int64: what the tokenizer gives.
        outputs: `last_hidden_state` [B, L, D], and `sentence_embedding` [B, E] where the student makes vectors of
            texts; of a task model `logits` [B, C] or [B, L, C], or `start_logits` and `end_logits` [B, L].
    """

    def __init__(
        self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], vectors: SentenceVectors | None
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.vectors = model, inputs, vectors
        self.outputs = (*outputs, "sentence_embedding") if vectors else outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of their names, from the inputs in that of theirs."""
        found = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        states = [found[name] for name in self.outputs if name != "sentence_embedding"]
        if self.vectors:
            states.append(self.vectors(states[0], tensors[self.inputs.index("attention_mask")]))
        return tuple(states)

    def answer(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name for the inputs of a batch; what is no input of the graph is left out."""
        return dict(zip(self.outputs, self(*(batch[name] for name in self.inputs)), strict=True))


@dataclass(frozen=True)
class Exported:
    """A student that can be exported.

    Attributes:
        head: its class with a task's head, such as BertForTokenClassification; None for a general student.
        max_tokens: the longest text that it is asked about.
    """

    folder: Path
    answers: Answers
    tokenizer: Any
    head: str | None
    max_tokens: int

    @property
    def vocab_size(self) -> int:
        """The number of its embeddings."""
        return int(self.answers.model.config.vocab_size)


def read_student(folder: Path) -> Exported:
    """Load a published student, a sentence-transformers folder or a fine-tuned model, in float32.

    Raise ValueError if its family, head, tokenizer or a module of sentence-transformers cannot be exported. Warn of a
    masked-language head, which is left out.
    """
    config = load_pretrained(AutoConfig, str(folder))
    head = _head_of(folder, config)
    tokenizer = load_pretrained(AutoTokenizer, str(folder))
    try:
        shape = EncoderShape.of(config)
    except ValueError as error:
        raise ValueError(f"{folder}: cannot be exported: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(f"{folder}: its tokenizer has no fast version (tokenizer.json), with which it would be served")
    check_vocabulary(str(folder), shape.vocab_size, pieces_by_id(tokenizer))
    vectors = None
    outputs: tuple[str, ...] = ("last_hidden_state",)
    if head:
        auto_class, outputs = next(value for name, value in _HEADS.items() if head.endswith(name))
        model, drawn = load_model(auto_class, str(folder))
        if drawn:
            raise ValueError(f"{folder}: its head has no weights ({sorted(drawn)[0]} is missing): fine-tune it first")
    else:
        model = load_encoder(str(folder))
        vectors = read_sentence_vectors(folder, shape.hidden_size)
    if (num_bytes := 4 * sum(weight.numel() for weight in model.parameters())) > BYTES_OF_A_FILE:
        raise ValueError(
            f"{folder}: cannot be exported: {num_bytes / 1e9:.1f} GB of weights, and an ONNX file holds "
            f"{BYTES_OF_A_FILE / 1e9:.0f} GB"
        )
    inputs = tuple(name for name in tokenizer("天") if shape.has_layers or name != "token_type_ids")
    if "attention_mask" not in inputs:
        raise ValueError(f"{folder}: its tokenizer gives no attention_mask: add it to model_input_names")
    longest = min(shape.max_row_tokens, tokenizer.model_max_length, vectors.max_tokens if vectors else 1 << 30)
    return Exported(folder, Answers(model.eval(), inputs, outputs, vectors).eval(), tokenizer, head, longest)


def _head_of(folder: Path, config: Any) -> str | None:
    """Return the class with a task's head that a config names. Raise ValueError for one that cannot be exported."""
    named = [name for name in config.architectures or [] if re.search("For[A-Z]", name)]  # not RoFormerModel
    if not named:
        return None
    if named[0].endswith(_LEFT_OUT):
        warnings.warn(f"{folder}: the head of {named[0]} is left out; the encoder is exported", stacklevel=3)
        return None
    if not named[0].endswith(tuple(_HEADS)):
        raise ValueError(
            f"{folder}: is a {named[0]}, whose head cannot be exported; heads that can: {', '.join(_HEADS)}"
        )
    return named[0]
