"""Every objective by the name that a configuration gives it, and those of other packages by their import path."""

import importlib
import json
from typing import Annotated, Any, get_args

from pydantic import SerializeAsAny, WrapValidator

from pretrain.objectives.layers import HiddenStatesConfig, PatientKDConfig, TinyBERTConfig
from pretrain.objectives.objective import ObjectiveConfig
from pretrain.objectives.relations import MiniLMConfig, MiniLMv2Config
from pretrain.objectives.vocabulary import DistilBERTConfig, MaskedLMConfig


class Registry:
    """Objective configurations, a union of them, by the values of their `type` key."""

    def __init__(self, configs: Any) -> None:
        self._by_name: dict[str, type[ObjectiveConfig]] = {
            name: one for one in get_args(configs) for name in get_args(one.model_fields["type"].annotation)
        }

    def validate(self, value: Any, _: Any) -> ObjectiveConfig:
        """Decode the JSON object of one objective. ValueError (pydantic's) for an unknown type or wrong keys."""
        if isinstance(value, ObjectiveConfig):
            return value
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str):
            raise ValueError(f'want an object with a "type", one of {self._names}')
        config = _import_config(name) if ":" in name else self._by_name.get(name)
        if config is None:
            raise ValueError(f"unknown type {name!r}; there are {self._names}")
        return config.model_validate_json(json.dumps(value))

    @property
    def _names(self) -> str:
        return f"{', '.join(self._by_name)}, or one of another package as my_package.module:MyObjectiveConfig"


def _import_config(path: str) -> type[ObjectiveConfig]:
    """The subclass of ObjectiveConfig at `module:Class`. ValueError if it cannot be imported or is something else."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"type {path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, ObjectiveConfig)):
        raise ValueError(f"type {path!r} must be a subclass of pretrain.objectives.objective.ObjectiveConfig")
    return found


# A new objective is a line here: in the first list, unless it needs a masked-language head.
EncoderObjective = MiniLMv2Config | MiniLMConfig | TinyBERTConfig | HiddenStatesConfig | PatientKDConfig
HeadObjective = DistilBERTConfig | MaskedLMConfig

GENERAL = Registry(EncoderObjective | HeadObjective)
GeneralObjective = Annotated[
    SerializeAsAny[EncoderObjective | HeadObjective | ObjectiveConfig], WrapValidator(GENERAL.validate)
]
