"""Warnings at the start of a run."""

import pytest

from launch.distillation.checks import (
    MAX_EPOCHS,
    warn_of_epochs,
    warn_of_few_rows,
    warn_of_foreign_spaces,
    warn_of_lanes,
    warn_of_unreached,
)
from launch.distillation.config import read_run_config
from pretrain.models.teacher import Teacher
from pretrain.students.student import build_student
from tests.pretrain.tiny import student_config, teacher_model


def test_ranks_that_read_bytes_repeatedly_cause_a_warning(recwarn):
    for num_lanes, world_size in ((256, 1), (256, 64), (1008, 24)):
        warn_of_lanes(num_lanes, world_size)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"24 ranks read every byte 3 times because corpus.num_lanes \(256\) is not a"):
        warn_of_lanes(256, 24)


def test_few_rows_for_relations_between_rows_cause_a_warning(config_file, recwarn):
    between = 'students.0.objective=[{"type": "minilm_v2", "num_relation_heads": 4, "between": "rows"}]'
    many = ["deepspeed.train_batch_size=32", "deepspeed.train_micro_batch_size_per_gpu=32"]
    for overrides, world_size in (([], 1), ([between, *many], 2)):
        warn_of_few_rows(read_run_config(config_file, overrides), world_size)
    assert not recwarn
    with pytest.warns(UserWarning, match='minilm_v2 between "rows" compares the 8 rows of a micro-batch, of no other'):
        warn_of_few_rows(read_run_config(config_file, [between, *many]), 4)


def test_a_probe_of_untrained_states_causes_a_warning(config_file, recwarn):
    teacher, unreached = teacher_model(), {}
    for name, kind in (("relations", "minilm"), ("states", "hidden_states")):
        student = build_student(student_config(name, objective=[{"type": kind}]), teacher, seed=0)
        unreached[name] = student.freeze_unreached(Teacher(teacher, [student.teacher_reads], "float32", "cpu"))
    task = 'probe.task={"name": "titles", "kind": "sentence", "train": "a", "dev": "b"}'
    for overrides in ([], ['probe={"heldout": "m"}']):
        warn_of_unreached(read_run_config(config_file, overrides), unreached)
    assert not recwarn
    with pytest.warns(UserWarning, match="^probe.task: relations: neighbours are found by its last") as told:
        warn_of_unreached(read_run_config(config_file, [task]), unreached)
    assert len(told) == 1
    first = "encoder.layer.1.attention.output.dense.weight"
    assert f" 10 tensors that no objective trains ({first} to encoder.layer.1.output.LayerNorm.bias): trust" in str(
        told[0].message
    )


def test_students_whose_vectors_are_elsewhere_have_no_asymmetric_retrieval(config_file, recwarn):
    sentence = [f'students.{i}.objective=[{{"type": "sentence", "pooling": "mean"}}]' for i in range(2)]
    warn_of_foreign_spaces(read_run_config(config_file, ['probe={"heldout": "m"}']))
    warn_of_foreign_spaces(read_run_config(config_file, ['probe={"documents": "d"}', "corpus.rows=texts", *sentence]))
    assert not recwarn
    with pytest.warns(
        UserWarning, match="probe.documents: other: no asymmetric_retrieval: no objective sentence"
    ) as told:
        warn_of_foreign_spaces(read_run_config(config_file, ['probe={"documents": "d"}', sentence[0]]))
    assert len(told) == 1


def test_a_run_of_thousands_of_epochs_causes_a_warning(config_file, recwarn):
    config = read_run_config(config_file, ["training.total_steps=100000"])  # of 8 rows
    warn_of_epochs(config, 800_000 // MAX_EPOCHS)
    assert not recwarn
    said = (
        "training.total_steps: 100,000 steps of 8 rows are 2,000 epochs of this corpus, which has 400 rows; use a "
        r"larger corpus or fewer steps \(100 epochs are 5,000 steps\)"
    )
    with pytest.warns(UserWarning, match=said):
        warn_of_epochs(config, 400)
