"""The teacher stays frozen, and its fingerprint depends on every bit."""

import pytest
import torch

from pretrain.models.encoder import Reads
from pretrain.models.teacher import Teacher, fingerprint
from tests.pretrain.tiny import batch, teacher_model

READS = [Reads(hidden_states=frozenset({1})), Reads(projections=frozenset({3}))]


def test_frozen_cut_and_in_its_precision():
    teacher = Teacher(teacher_model(), READS, "bfloat16", "cpu")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert len(teacher.encoder.model.encoder.layer) == 3
    features = teacher(batch())
    assert features.hidden_states[1].dtype == features.key[3].dtype == torch.bfloat16
    assert not features.hidden_states[1].requires_grad
    with pytest.raises(RuntimeError, match="the teacher is frozen"):
        teacher.train()
    assert teacher.eval() is teacher


def test_fingerprint_sees_one_bit_and_not_the_file():
    model, same = teacher_model(), teacher_model()
    assert fingerprint(model) == fingerprint(same)
    with torch.no_grad():
        same.encoder.layer[0].output.dense.bias[0] += 1e-7
    assert fingerprint(model) != fingerprint(same)
