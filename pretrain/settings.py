"""What every configuration and record is: the corpus's are such too, by a class of their own (corpus/config.py)."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Frozen, no unknown key, no conversion between types (true is not 1, "7" is no number), numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0, lt=1 << 63)]


Problems = Iterator[tuple[str, str]]


Share = Annotated[float, Field(ge=0, le=1)]
