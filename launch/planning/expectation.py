"""What a fitted law says of the students of a configuration, or why none may be asked."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from corpus.shards.manifest import Manifest
from launch.distillation.config import RunConfig
from launch.planning.law import Estimate, Law, read_law
from launch.planning.work import PlannedStudent
from pretrain.models.pretrained import read_shape
from pretrain.models.teacher import fingerprint, load_teacher

LAWS = Path(__file__).resolve().parents[2] / "configs/laws"


class Expectation(NamedTuple):
    """The held-out loss and the kept score of a student, None where no law can tell, and what they rest on."""

    student: str
    loss: Estimate | None
    kept: Estimate | None
    rests_on: str
    of_score: str = ""


def read_laws(path: Path | None) -> Mapping[str, Law]:
    """Return laws by the names of their files: the one that is given, or those of configs/laws.

    Raise ValueError if a file is not a law.
    """
    paths = [path] if path else sorted(LAWS.glob("*.json"))
    return {one.name: read_law(one) for one in paths}


def expect(
    config: RunConfig,
    students: Sequence[PlannedStudent],
    tokens: int,
    laws: Mapping[str, Law],
    manifest: Manifest | None,
) -> Iterator[Expectation]:
    """Yield the expectation of each student by the first law that is for it.

    The teacher's weights are read only if its sizes are a law's.
    """
    teacher = read_shape(config.teacher.path) if config.teacher else None

    @cache
    def weights() -> str:
        assert config.teacher
        model, head = load_teacher(config.teacher.path, config.needs_teacher_head)
        return fingerprint(head.model if head else model)

    for one in students:
        reasons, name, size = [], one.config.name, one.cost.in_layers
        for file, law in laws.items():
            found = law.differences(config, one.config, teacher)
            problems = [*found.forbidding, *law.outside(size, tokens)]
            if not problems and weights() != law.setting.teacher_fingerprint:
                problems = ["another teacher: its sizes are those of the law's, its weights are not"]
            if not problems:
                others = list(found.others)
                if manifest is None or manifest.fingerprint != law.setting.corpus:
                    others.insert(0, "the corpus")
                yield _by_law(file, law, name, size, tokens, others)
                break
            reasons.append(f"{file}: {'; '.join(problems)}")
        else:
            yield Expectation(name, None, None, ". ".join(reasons) or "no law is there: fit one with bench/law/fit.py")


def _by_law(file: str, law: Law, name: str, size: int, tokens: int, others: Sequence[str]) -> Expectation:
    setting = law.setting
    basis = f"fitted on {law.num_points} students, {file}; {setting.relation_heads} relation heads"
    if law.extrapolates(size, tokens):
        basis += "; extrapolated"
    if others:
        basis += f"; differs from these runs in {', '.join(others)}"
    return Expectation(name, law.loss(size, tokens), law.kept_score(size, tokens), basis, _of_score(law))


def _of_score(law: Law) -> str:
    setting = law.setting
    if setting.task is None:
        return ""
    if law.curve.kept is None:
        return f"the score on {setting.task} did not follow the loss in the law's runs"
    return f"fitted: {setting.task} by neighbours, where the teacher has {setting.teacher_score:.1%}"
