"""What every configuration and record is: the corpus's are such too, by a class of their own (corpus/settings.py)."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, no unknown key, no conversion between types (true is not 1, "7" is no number), numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
