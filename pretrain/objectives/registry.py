"""The objectives by their `type` in a configuration: built-in names, or the import path of another package's class."""

import importlib
import json
from typing import Annotated, Any, get_args

from pydantic import SerializeAsAny, WrapValidator

from pretrain.objectives.layers import HiddenStatesConfig, PatientKDConfig, TinyBERTConfig
from pretrain.objectives.objective import ObjectiveConfig
from pretrain.objectives.relations import MiniLMConfig, MiniLMv2Config
from pretrain.objectives.replaced_tokens import ReplacedTokensConfig
from pretrain.objectives.sentence import SentenceConfig
from pretrain.objectives.sentence_order import SentenceOrderConfig
from pretrain.objectives.vocabulary import DistilBERTConfig, MaskedLMConfig


class Registry:
    """Decodes objectives: the members of a union of configuration classes by their `type`, or imported classes."""

    def __init__(self, configs: Any) -> None:
        self._by_name: dict[str, type[ObjectiveConfig]] = {
            name: one for one in get_args(configs) for name in get_args(one.model_fields["type"].annotation)
        }

    def validate(self, value: Any, _: Any) -> ObjectiveConfig:
        """Decode the JSON object of one objective. Raise ValueError for an unknown type or wrong keys."""
        if isinstance(value, ObjectiveConfig):
            return value
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str):
            raise ValueError(f'must be an object with a "type", one of {self._names}')
        config = _import_config(name) if ":" in name else self._by_name.get(name)
        if config is None:
            raise ValueError(f"unknown type {name!r}; must be one of {self._names}")
        return config.model_validate_json(json.dumps(value))

    @property
    def _names(self) -> str:
        return f"{', '.join(self._by_name)}, or another package's as my_package.module:MyObjectiveConfig"


def _import_config(path: str) -> type[ObjectiveConfig]:
    """Import a subclass of ObjectiveConfig from `module:Class`. Raise ValueError if there is none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"type {path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, ObjectiveConfig)):
        raise ValueError(f"type {path!r} must be a subclass of pretrain.objectives.objective.ObjectiveConfig")
    if found.build is ObjectiveConfig.build:
        raise ValueError(f"type {path!r} must define `build`, which returns its objective")
    return found


# To add an objective, add its configuration class to one of these lines: the second if it needs a masked-language head,
# or rows as only a corpus gives them.
EncoderObjective = (
    MiniLMv2Config | MiniLMConfig | TinyBERTConfig | HiddenStatesConfig | PatientKDConfig | SentenceConfig
)
CorpusObjective = DistilBERTConfig | MaskedLMConfig | ReplacedTokensConfig | SentenceOrderConfig

GENERAL = Registry(EncoderObjective | CorpusObjective)
GeneralObjective = Annotated[
    SerializeAsAny[EncoderObjective | CorpusObjective | ObjectiveConfig], WrapValidator(GENERAL.validate)
]
