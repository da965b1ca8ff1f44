"""Empty rows, which replace damaged ones: objectives accept them, and they are counted."""

import pytest
import torch

from pretrain.models.teacher import Teacher
from pretrain.students.student import build_student
from pretrain.training.metrics import read_metrics
from tests.pretrain import tiny
from tests.pretrain.tiny import ROW_TOKENS, batch, student_config, teacher_model, train

OBJECTIVES = [
    {"type": "minilm_v2", "num_relation_heads": 4},
    {"type": "minilm"},
    {"type": "ernie_tiny", "num_relation_heads": 4},
    {"type": "tinybert"},
    {"type": "hidden_states"},
    {"type": "pkd"},
    {"type": "mlm"},
]


def without_text(whole: dict[str, torch.Tensor], rows: list[int]) -> dict[str, torch.Tensor]:
    """The same batch with these rows empty."""
    whole["input_ids"][rows] = torch.tensor([2, 3] + [0] * (ROW_TOKENS - 2))
    whole["attention_mask"][rows] = torch.tensor([1, 1] + [0] * (ROW_TOKENS - 2))
    whole["labels"][rows] = -100
    return whole


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective["type"])
def test_every_objective_bears_rows_without_text(objective):
    model = teacher_model()
    student = build_student(student_config(objective=[objective]), model, seed=1)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    for rows in ([1], [0, 1, 2]):
        whole = batch(padding=False)
        whole = without_text(whole | {"labels": whole["input_ids"].clone()}, rows)
        student.zero_grad()
        loss, _ = student(whole, teacher(whole))
        loss.backward()
        grads = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
        assert loss.isfinite() and grads and all(grad.isfinite().all() for grad in grads)


def test_skipped_rows_reach_the_metrics(tmp_path, monkeypatch):
    original = tiny.rows_from

    def damaged(*arguments):
        for number, whole in enumerate(original(*arguments)):
            yield without_text(whole, [0, 2] if number in (1, 4) else [])

    monkeypatch.setattr(tiny, "rows_from", damaged)
    train(tmp_path, 6, micro_rows=4)
    assert [line["skipped_rows"] for line in read_metrics(tmp_path)] == [2, 2, 0]
