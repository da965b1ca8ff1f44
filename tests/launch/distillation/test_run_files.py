"""What a run writes into its folder is whole whenever the process is killed."""

import json
import re

import pytest

from corpus.shards.manifest import load_manifest
from launch.distillation import run_files
from launch.distillation.config import read_run_config
from launch.distillation.run_facts import read_facts
from launch.distillation.run_files import check_run_folder, save_start, summary, write_run_folder
from launch.job.run_folder import write_done
from pretrain.checkpoints.checkpoint import TrainingState
from pretrain.probes.teacher_check import HeadScore
from pretrain.students.student import build_student
from tests.pretrain.tiny import student_config, teacher_model


def test_a_finished_run_is_summed_up_without_its_losses_too(tmp_path, config_file):
    config, done = (
        read_run_config(config_file),
        write_done(tmp_path, TrainingState(step=6, rows=48, tokens=768, seconds=1.5)),
    )
    assert re.match("no losses to show: .*metrics.jsonl: no such file", summary(tmp_path, config, done))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "small/probe/neighbour_accuracy": 0.5}\n')
    assert summary(tmp_path, config, done).startswith("6 steps, 768 tokens, ")


def test_the_score_of_a_teachers_head_is_recorded_once(tmp_path, config_file, corpus_folder):
    config, manifest = read_run_config(config_file), load_manifest(corpus_folder)
    for score in (None, HeadScore(0.25, 0.125, 64), None):
        write_run_folder(config, manifest, "print", {}, tmp_path, score=score)
        found = read_facts(tmp_path / "run.json").teacher
        wanted = (None, None) if "masked_accuracy" not in (tmp_path / "run.json").read_text() else (0.25, 0.125)
        assert (found.masked_accuracy, found.commonest_share) == wanted
    assert found.masked_accuracy == 0.25


def test_a_start_that_a_kill_left_half_is_written_again(tmp_path, teacher_folder, monkeypatch):
    student = build_student(student_config(), teacher_model(), seed=1)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    (tmp_path / "tokenizer").symlink_to(teacher_folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_files.AutoTokenizer, "from_pretrained", killed)
        save_start(student, tmp_path)
    assert not (tmp_path / "start/small").exists()
    save_start(student, tmp_path)
    names = {path.name for path in (tmp_path / "start/small").iterdir()}
    assert {"model.safetensors", "tokenizer.json"} <= names and len(list((tmp_path / "start").iterdir())) == 1


@pytest.mark.parametrize(("rows", "is_changed"), [("texts", True), ("pairs", True), ("packed", False)])
def test_a_run_from_before_rows_were_sorted_by_length_goes_on_in_its_own_order(tmp_path, config_file, rows, is_changed):
    config = read_run_config(config_file, [f"corpus.rows={rows}"])
    values = config.model_dump(mode="json")
    del values["corpus"]["bucket_steps"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    if is_changed:
        with pytest.raises(ValueError, match=r"another configuration; changed: corpus\.bucket_steps\."):
            check_run_folder(config, None, tmp_path)
        config = read_run_config(config_file, [f"corpus.rows={rows}", "corpus.bucket_steps=1"])
    check_run_folder(config, None, tmp_path)
