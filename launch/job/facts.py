"""run.json, the facts that a run records about itself. Keys that this version does not know are ignored."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pretrain.precision import Dtype
from pretrain.settings import Count


class Facts(BaseModel):
    """One section of run.json."""

    model_config = ConfigDict(frozen=True)


AnyFacts = TypeVar("AnyFacts", bound=Facts)


def read_facts_as(model: type[AnyFacts], path: Path) -> AnyFacts:
    """Read facts from a file. Raise ValueError naming the file, and every key whose value no run writes."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise ValueError("\n".join([f"{path}: not written by a run:", *problems])) from error


class RanOn(Facts):
    """The device on which a run continued from `step`, and the types that its models computed in."""

    step: Count = 0
    device: str
    teacher: Dtype | None = None
    students: Dtype
    relation_kernels: list[str] = Field(default_factory=list)  # those that compute relation losses there

    @property
    def dtypes(self) -> dict[str, Dtype]:
        """The types by "students" and, if there is one, "teacher"."""
        return {"students": self.students} | ({"teacher": self.teacher} if self.teacher else {})


class _MachineFacts(Facts):
    ran_on: list[RanOn] = Field(default_factory=list)


def read_ran_on(path: Path) -> list[RanOn]:
    """Read which machines a run or a task's chain ran on, oldest first; an empty list without a file."""
    return read_facts_as(_MachineFacts, path).ran_on if path.is_file() else []
