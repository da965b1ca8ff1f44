"""The base class of configurations and records, and types that several of them use."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A frozen model that rejects unknown keys, other types (true for 1, "7" for 7) and infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Share = Annotated[float, Field(ge=0, le=1)]
Problems = Iterator[tuple[str, str]]  # (key, message) of everything wrong with a configuration
