"""run.json: what a run noted of its corpus, its teacher and its students when it began."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pretrain.checkpoint import Count
from pretrain.objective import Share


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


class RunFacts(Facts):
    """`unreached_parameters`: by student, what no objective reaches."""

    corpus: CorpusFacts
    teacher: TeacherFacts | None
    unreached_parameters: dict[str, list[str]]
    probe: ProbeFacts | None = None


def read_facts(path: Path) -> RunFacts:
    """ValueError naming the file, and every key that is not what a run writes."""
    try:
        return RunFacts.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise ValueError("\n".join([f"{path}: not what a run notes:", *problems])) from error
