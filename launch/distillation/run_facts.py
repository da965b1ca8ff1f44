"""run.json: facts about a run's corpus, teacher and students, recorded when it starts."""

from pathlib import Path

from pydantic import Field

from launch.job.facts import Facts, RanOn, read_facts_as
from pretrain.settings import Count, Share


class SourceFacts(Facts):
    """A source of the corpus."""

    name: str
    licence: str


class CorpusFacts(Facts):
    """The corpus."""

    fingerprint: str
    tokens: Count
    documents: Count
    sources: list[SourceFacts]


class TeacherFacts(Facts):
    """The teacher."""

    path: str
    fingerprint: str  # of its weights
    masked_accuracy: Share | None = None  # share of masked tokens that its head predicts, where an objective reads it
    commonest_share: Share | None = None  # of the commonest of these tokens
    prompt: str | None = None  # the text that teacher.prompt names


class ProbeFacts(Facts):
    """The data of the probe, and the teacher's score on it."""

    task: str | None = None
    texts: str | None = None  # fingerprint
    num_train: Count = 0
    num_dev: Count = 0
    num_classes: Count = 0
    chance: Share | None = None  # accuracy of always answering the commonest label
    teacher_accuracy: Share | None = None
    documents: str | None = None  # fingerprint
    num_documents: Count = 0
    teacher_retrieval: Share | None = None
    pairs: str | None = None  # fingerprint
    pairs_task: str | None = None
    num_pairs: Count = 0
    teacher_similarity_auc: Share | None = None
    heldout: str | None = None  # fingerprint
    num_heldout_rows: Count = 0


class RunFacts(Facts):
    """All of run.json."""

    corpus: CorpusFacts
    teacher: TeacherFacts | None
    unreached_parameters: dict[str, list[str]]  # by student, those that no objective trains
    probe: ProbeFacts | None = None
    ran_on: list[RanOn] = Field(default_factory=list)  # an entry for every change of machine, oldest first


def read_facts(path: Path) -> RunFacts:
    """Read run.json. Raise ValueError naming the file, and every key whose value no run writes."""
    return read_facts_as(RunFacts, path)
