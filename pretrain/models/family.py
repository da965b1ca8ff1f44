"""The families of encoders: everything that differs between them. A new family is an entry of FAMILIES."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field


@dataclass(frozen=True)
class Family:
    """A family whose self-attention is a module with `query`, `key` and `value` projections.

    Attributes:
        head_dense, head_norm: names of the linear layer and the normalisation before a masked-language head's decoder.
        head_is_gelu: whether that head's activation is GELU whatever the configuration says.
        numbers_after_padding: whether positions are numbered from the padding id + 1, so that the first are unused.
        relation_layer_of_24: the teacher layer for MiniLMv2 relations in a model of 24 layers (arXiv:2012.15828, 4.3).
        shares_layers: whether all layers are one module.
        has_pooler: whether AutoModel has a pooler, which it draws at random if a folder has none.
    """

    head_dense: str
    head_norm: str
    head_is_gelu: bool = False
    numbers_after_padding: bool = False
    relation_layer_of_24: int = 21
    shares_layers: bool = False
    has_pooler: bool = True


_BERT = Family("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm")
_ROBERTA = Family(
    "lm_head.dense", "lm_head.layer_norm", head_is_gelu=True, numbers_after_padding=True, relation_layer_of_24=19
)
# By the model_type of transformers; the tests run all of them at a tiny size.
FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "ernie": _BERT,
    "electra": Family(
        "generator_predictions.dense", "generator_predictions.LayerNorm", head_is_gelu=True, has_pooler=False
    ),
    "albert": Family("predictions.dense", "predictions.LayerNorm", shares_layers=True),
}


def check_family(model_type: str) -> str:
    """Return the model_type. Raise ValueError if it is not supported."""
    if model_type not in FAMILIES:
        raise ValueError(f"model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    return model_type


FamilyName = Annotated[str, AfterValidator(check_family), Field(json_schema_extra={"enum": list(FAMILIES)})]
