"""The families of encoders that are known by name: what cannot be asked of transformers. Tests run all of them.

Other encoders of transformers work too if their attention goes through its interface; see `check_family`.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator
from transformers import AutoConfig, AutoModel


@dataclass(frozen=True)
class Family:
    """What is known of a family by its name.

    Attributes:
        head_dense, head_norm: names of the linear layer and the normalisation before a masked-language head's decoder;
            None if nothing is before it.
        head_activation: the key of its configuration that names the activation between them.
        has_head: whether there is a masked-language head at all.
        numbers_after_padding: whether positions are numbered from the padding id + 1, so that the first are unused.
        relation_layer_of_24: the teacher layer for MiniLMv2 relations in a model of 24 layers (arXiv:2012.15828, 4.3).
        shares_layers: whether all layers are one module.
        has_pooler: whether AutoModel has a pooler, which it draws at random if a folder has none.
        is_bert: whether embeddings and layers are BERT's, so that another such family's can be taken over or projected.
        projections: names of the modules that return queries, keys and values, of a family whose attention does not go
            through transformers' interface.
        scores_have_positions: whether such a family adds positions to queries, keys or scores inside its attention.
        takes_documents: whether its attention takes a mask of which tokens may see which.
    """

    head_dense: str | None = None
    head_norm: str | None = None
    head_activation: str | None = "hidden_act"
    has_head: bool = True
    numbers_after_padding: bool = False
    relation_layer_of_24: int | None = None
    shares_layers: bool = False
    has_pooler: bool = True
    is_bert: bool = False
    projections: tuple[str, str, str] | None = None
    scores_have_positions: bool = False
    takes_documents: bool = True


def _bert_head(prefix: str, norm: str = "LayerNorm", **changes: Any) -> Family:
    return Family(f"{prefix}.dense", f"{prefix}.{norm}", **changes)


_OF_BERT = "cls.predictions.transform"
_BERT = _bert_head(_OF_BERT, relation_layer_of_24=21, is_bert=True)
_ROBERTA = _bert_head(
    "lm_head", "layer_norm", head_activation=None, numbers_after_padding=True, relation_layer_of_24=19, is_bert=True
)
_NAMES = ("query", "key", "value")
# By the model_type of transformers
FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "ernie": _BERT,
    "electra": _bert_head(
        "generator_predictions", head_activation=None, relation_layer_of_24=21, has_pooler=False, is_bert=True
    ),
    "albert": _bert_head("predictions", relation_layer_of_24=21, shares_layers=True, is_bert=True),
    "xlm-roberta-xl": _bert_head("lm_head", "layer_norm", head_activation=None, numbers_after_padding=True),
    "megatron-bert": _bert_head(_OF_BERT, projections=_NAMES),
    "roformer": _bert_head(_OF_BERT, projections=_NAMES, scores_have_positions=True, has_pooler=False),
    "deberta-v2": _bert_head(
        _OF_BERT,
        projections=("query_proj", "key_proj", "value_proj"),
        scores_have_positions=True,
        takes_documents=False,
        has_pooler=False,
    ),
    "nomic_bert": _bert_head(_OF_BERT, "layer_norm", has_pooler=False),
    "modernbert": Family("head.dense", "head.norm", "classifier_activation", has_pooler=False),
    "eurobert": Family(has_pooler=False),
    "qwen3": Family(has_head=False, has_pooler=False),
    "gemma3_text": Family(has_head=False, has_pooler=False),
}
BERT_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.is_bert)
_OTHER = Family(has_head=False, has_pooler=False)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def family_of(model_type: str) -> Family:
    """Return what is known of a family; of one that is not known by name, nothing."""
    return FAMILIES.get(model_type, _OTHER)


def check_family(config: Any) -> str:
    """Return the model_type of a Hugging Face config.

    Raise ValueError if it is neither known by name nor an encoder or decoder of text whose attention goes through
    transformers' interface, where queries, keys and values can be read.
    """
    name = config.model_type
    if name in FAMILIES:
        return str(name)
    kind = AutoModel._model_mapping.get(type(config), None)
    if getattr(config, "is_encoder_decoder", False):
        reason = "it has an encoder and a decoder"
    elif config.sub_configs or not all(isinstance(getattr(config, key, None), int) for key in _SIZES):
        reason = "it is not one model of text"
    elif not getattr(kind, "_supports_attention_backend", False):
        reason = "its attention does not go through transformers' interface"
    else:
        return str(name)
    raise ValueError(f"model_type {name!r} is not supported: {reason}; known to work: {', '.join(FAMILIES)}")


def check_student_family(model_type: str) -> str:
    """Return the model_type. Raise ValueError if transformers does not know it, or it is not supported."""
    if model_type in FAMILIES:
        return model_type
    try:
        config = AutoConfig.for_model(model_type)
    except ValueError:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model_type {model_type!r} is not known to transformers; known to work: {known}") from None
    return check_family(config)


FamilyName = Annotated[str, AfterValidator(check_student_family)]
