"""run.json: what a run noted of its corpus, its teacher and its students when it began."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pretrain.checkpoint import Count
from pretrain.objective import Share
from pretrain.precision import Dtype


class Facts(BaseModel):
    """What is not known here is left alone: later versions may note more."""

    model_config = ConfigDict(frozen=True)


class SourceFacts(Facts):
    name: str
    licence: str


class CorpusFacts(Facts):
    fingerprint: str
    tokens: Count
    documents: Count
    sources: list[SourceFacts]


class TeacherFacts(Facts):
    path: str
    fingerprint: str


class ProbeFacts(Facts):
    """What the probe measures on: `texts` and `heldout` are fingerprints, `chance` always gives the commonest label."""

    task: str | None = None
    texts: str | None = None
    num_train: Count = 0
    num_dev: Count = 0
    num_classes: Count = 0
    chance: Share | None = None
    teacher_accuracy: Share | None = None
    heldout: str | None = None
    num_heldout_rows: Count = 0


class RanOn(Facts):
    """On what a run went on from `step`, and the types that its models computed in."""

    step: Count = 0
    device: str
    teacher: Dtype | None = None
    students: Dtype

    @property
    def dtypes(self) -> dict[str, Dtype]:
        """By who computes in it."""
        return {"students": self.students} | ({"teacher": self.teacher} if self.teacher else {})


class RunFacts(Facts):
    """`unreached_parameters`: by student, what no objective reaches. `ran_on`: a note for each change, oldest first."""

    corpus: CorpusFacts
    teacher: TeacherFacts | None
    unreached_parameters: dict[str, list[str]]
    probe: ProbeFacts | None = None
    ran_on: list[RanOn] = []


_Read = TypeVar("_Read", bound=Facts)


class _MachineFacts(Facts):
    ran_on: list[RanOn] = []


def read_facts(path: Path) -> RunFacts:
    """ValueError naming the file, and every key that is not what a run writes."""
    return _read(RunFacts, path)


def read_ran_on(path: Path) -> list[RanOn]:
    """What a run or a task's chain noted of its machines, oldest first; nothing where there is no file."""
    return _read(_MachineFacts, path).ran_on if path.is_file() else []


def _read(model: type[_Read], path: Path) -> _Read:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise ValueError("\n".join([f"{path}: not what a run notes:", *problems])) from error
