"""The held-out relation loss is the objective's own, and zero for the teacher itself."""

import pytest
import torch

from pretrain.models.encoder import Encoder, Reads
from pretrain.objectives.relations import MiniLMv2Config
from pretrain.precision import autocast
from pretrain.probes.heldout import heldout_relation_losses
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, student_config, teacher_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_equals_the_objective_and_is_zero_for_the_teacher(dtype):
    teacher = teacher_model()
    student = build_student(student_config(objective=[{"type": "minilm_v2", "num_relation_heads": 12}]), teacher, 0)
    batches = [batch(seed=seed) for seed in range(3)]
    losses = heldout_relation_losses(teacher, {"student": student.encoder.model, "teacher": teacher}, batches, dtype)
    assert losses["teacher"] == pytest.approx(0, abs=1e-6)
    objective = MiniLMv2Config(type="minilm_v2", num_relation_heads=12).build
    shape = student.encoder.shape
    reads = Encoder(teacher, Reads(projections=frozenset({4})))
    expected = 0.0
    for one in batches:
        with torch.no_grad(), autocast("cpu", dtype):
            terms = objective(reads.shape, shape)(reads(one), student.encoder(one), one)
        expected += sum(float(value) for value in terms.values()) / len(batches)
    assert losses["student"] == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_is_read_below_its_top_is_still_zero_to_itself():
    teacher = teacher_model(num_hidden_layers=24)
    assert heldout_relation_losses(teacher, {"teacher": teacher}, [batch()]) == {"teacher": pytest.approx(0, abs=1e-6)}


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no held-out rows to compare relations on"):
        heldout_relation_losses(teacher_model(), {}, [])
