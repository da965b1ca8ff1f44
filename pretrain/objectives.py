"""Every objective by the name that a run configuration gives it."""

from typing import Annotated

from pydantic import Field

from pretrain.layer_objectives import HiddenStatesConfig, PatientKDConfig, TinyBERTConfig
from pretrain.relation_objectives import MiniLMConfig, MiniLMv2Config
from pretrain.vocabulary_objectives import DistilBERTConfig, MaskedLMConfig

ObjectiveConfig = Annotated[
    MiniLMv2Config
    | MiniLMConfig
    | TinyBERTConfig
    | HiddenStatesConfig
    | PatientKDConfig
    | DistilBERTConfig
    | MaskedLMConfig,
    Field(discriminator="type"),
]
