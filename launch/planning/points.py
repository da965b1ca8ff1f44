"""The points of a law from finished runs, and the file that records them: figures without run folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from transformers import AutoConfig

from launch.command_line.config_file import changed_keys, read_strictly
from launch.distillation.config import RunConfig, read_run_config
from launch.distillation.run_facts import ProbeFacts, read_facts
from launch.job.run_folder import read_done
from launch.planning.encoder_cost import EncoderCost
from launch.planning.fitting import Point
from launch.planning.law import Setting, TeacherSizes, common_config
from pretrain.models.pretrained import load_pretrained, read_shape
from pretrain.probes.heldout import shared_relation_heads
from pretrain.settings import Settings
from pretrain.training.metrics import read_metrics


class Record(Settings):
    """What runs have in common, and a point for every student of each."""

    setting: Setting
    points: Annotated[list[Point], Field(min_length=1)]


def read_record(path: Path) -> Record:
    """Read a recorded file, or the points of a finished run from its folder.

    Raise ValueError if the file is of another kind, the run is not done, or it had no held-out loss.
    """
    return _read_run(path) if path.is_dir() else read_strictly(Record, path)


def join_records(records: Sequence[tuple[Path, Record]]) -> Record:
    """Return one record of all. Raise ValueError naming the keys in which a setting differs from the first."""
    (first_path, first), *others = records
    for path, one in others:
        before, now = (record.setting.model_dump(mode="json", exclude={"teacher"}) for record in (first, one))
        if changed := changed_keys(before, now):
            raise ValueError(f"{path}: differs from {first_path} in {', '.join(changed)}: a law is of one setting")
    return Record(setting=first.setting, points=[point for _, one in records for point in one.points])


def _read_run(run: Path) -> Record:
    done = read_done(run)
    if done is None:
        raise ValueError(f"{run}: is not done (no done.json); a law takes finished runs alone")
    config, facts = read_run_config(run / "config.json"), read_facts(run / "run.json")
    if config.teacher is None or facts.teacher is None or facts.probe is None or facts.probe.heldout is None:
        raise ValueError(f"{run}: had no held-out loss; give its configuration a teacher and probe.heldout")
    last = read_metrics(run)[-1]
    points = [
        Point(
            run=run.name,
            student=one.name,
            parameters=EncoderCost.of_config(load_pretrained(AutoConfig, str(run / "start" / one.name))).in_layers,
            tokens=done.tokens,
            loss=_logged(last, f"{one.name}/probe/heldout_relation_loss", run),
            kept=_kept(last.get(f"{one.name}/probe/neighbour_accuracy"), facts.probe),
        )
        for one in config.students
    ]
    return Record(setting=_setting(config, run), points=points)


def _logged(record: dict[str, float], name: str, run: Path) -> float:
    if name not in record:
        raise ValueError(f"{run / 'metrics.jsonl'}: step {record['step']:.0f} has no {name}")
    return record[name]


def _kept(accuracy: float | None, facts: ProbeFacts) -> float | None:
    """Return a score as a share of the teacher's, at most 1."""
    return None if accuracy is None or not facts.teacher_accuracy else min(accuracy / facts.teacher_accuracy, 1.0)


def _setting(config: RunConfig, run: Path) -> Setting:
    facts, common = read_facts(run / "run.json"), [common_config(config, one) for one in config.students]
    assert config.teacher and facts.teacher and facts.probe and facts.probe.heldout
    for student, one in zip(config.students, common, strict=True):
        if changed := changed_keys(common[0], one):
            raise ValueError(f"{run}: students differ in more than their sizes: {student.name} in {', '.join(changed)}")
    teacher = read_shape(config.teacher.path)
    widths = [student.shape(teacher).attention_size for student in config.students]
    return Setting(
        teacher=config.teacher.path,
        teacher_fingerprint=facts.teacher.fingerprint,
        teacher_sizes=TeacherSizes.of(teacher),
        corpus=facts.corpus.fingerprint,
        heldout=facts.probe.heldout,
        heldout_rows=facts.probe.num_heldout_rows,
        relation_heads=shared_relation_heads([teacher.attention_size, *widths]),
        task=facts.probe.task,
        teacher_score=facts.probe.teacher_accuracy,
        texts=facts.probe.texts,
        config=common[0],
    )
