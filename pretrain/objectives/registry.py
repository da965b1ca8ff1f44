"""Every objective by the name that a run configuration gives it."""

from typing import Annotated

from pydantic import Field

from pretrain.objectives.layers import HiddenStatesConfig, PatientKDConfig, TinyBERTConfig
from pretrain.objectives.relations import MiniLMConfig, MiniLMv2Config
from pretrain.objectives.vocabulary import DistilBERTConfig, MaskedLMConfig

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
