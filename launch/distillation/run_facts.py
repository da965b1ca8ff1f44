"""run.json: what a run noted of its corpus, its teacher and its students when it began."""

from pathlib import Path

from pydantic import Field

from launch.job.facts import Facts, RanOn, read_facts_as
from pretrain.settings import Count, Share


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
    """`unreached_parameters`: by student, what no objective reaches. `ran_on`: a note for each change, oldest first."""

    corpus: CorpusFacts
    teacher: TeacherFacts | None
    unreached_parameters: dict[str, list[str]]
    probe: ProbeFacts | None = None
    ran_on: list[RanOn] = Field(default_factory=list)


def read_facts(path: Path) -> RunFacts:
    """run.json. ValueError naming the file and every key with a value that no run writes."""
    return read_facts_as(RunFacts, path)
