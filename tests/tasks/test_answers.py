"""A teacher whose predictions alone are read answers every row once, and the stage learns the same from that."""

import dataclasses
from itertools import islice

import pytest
import torch

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.teacher import Teacher
from pretrain.training.metrics import read_metrics
from tasks import teachers
from tasks.batches import TaskBatches, collate
from tasks.evaluation import predict
from tasks.label_objectives import SoftLabelsConfig
from tasks.models import load_task_model
from tasks.readers import read_task
from tasks.rows import Row
from tasks.stage import Stage, encode_task
from tasks.teachers import Answers, WeightedTeacher, askable
from tests.pretrain.tiny import shape, teacher_model
from tests.tasks.test_stage import LABELS, stage, weights

SOFT = [*LABELS, {"type": "soft_labels", "temperature": 2.0}]
PAD = 0


def rows_of(kind):
    """Rows of several lengths with labels of a kind."""
    rows = []
    for number, length in enumerate((5, 9, 3, 7, 9, 4)):
        labels = {
            "sentence": {"labels": number % 3},
            "entities": {"labels": [number % 5] * length},
            "reading": {"start_positions": 1, "end_positions": 2},
            "choice": {"labels": 0},
        }[kind]
        choices = (length - 2, 2) if kind == "choice" else ()
        ids = [1 + (number * 3 + place) % 9 for place in range(length)]
        rows.append(Row(ids, [0] * length, labels, number, choices=choices))
    return rows


@pytest.mark.parametrize("kind", ["sentence", "entities", "reading", "choice"])
def test_answers_in_a_batch_are_those_of_the_teacher_asked_about_that_batch(kind, tmp_path):
    teacher_model(initializer_range=0.5, pad_token_id=PAD).save_pretrained(tmp_path)
    labels = {"sentence": ["a", "b", "c"], "entities": ["name", "place"]}.get(kind, [])
    model = Encoder(load_task_model(str(tmp_path), kind, labels, 0), Reads(logits=True)).eval()
    rows = rows_of(kind)

    def ask(batch):
        return model(batch).logits

    batches = TaskBatches(rows, PAD, 3, seed=1)
    batches.answers = Answers([predict(ask, rows, PAD)])
    for chosen in ([0, 1, 2], [4, 3], [5]):
        batch = batches.batch(chosen)
        found = batches.answers(batch)
        with torch.no_grad():
            expected = dataclasses.replace(found, logits=ask(batch))
        plain = collate([rows[number] for number in chosen], PAD)
        assert found.logits.shape == expected.logits.shape
        assert all(torch.equal(batch[name], plain[name]) for name in plain)
        objective = SoftLabelsConfig(type="soft_labels").build(shape(), shape())
        losses = [objective(teacher, expected, plain)["soft_labels"] for teacher in (found, expected)]
        torch.testing.assert_close(*losses)


@pytest.mark.parametrize("rank", [0, 1])
def test_answers_follow_their_rows_through_epochs_and_ranks(rank):
    rows = [Row([index] * (1 + index % 5), [0] * (1 + index % 5), {"labels": index}, index) for index in range(70)]
    batches = TaskBatches(rows, PAD, 32, seed=3)
    batches.answers = Answers([[torch.tensor([float(index)]) for index in range(70)]])
    for batch in islice(batches.batches(32, 8, rank, world_size=2), 12):
        assert torch.equal(batches.answers(batch).logits[:, 0].long(), batch["labels"])


@pytest.fixture(scope="module")
def task(first_character, general):
    return encode_task(first_character, read_task(first_character), general)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory, task, general):
    """Two teachers."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (1, 2):
        one = stage(folder / f"run{seed}", task, general, epochs=2, seed=seed)
        assert one.trainer.train() == 0
        one.student.published.save_pretrained(folder / str(seed))
    return [str(folder / "1"), str(folder / "2")]


@pytest.mark.parametrize("several", [False, True])
def test_a_stage_asks_about_every_row_once_and_learns_as_if_it_asked_each_time(
    several, fine_tuned, tmp_path, task, general, monkeypatch
):
    teacher = [WeightedTeacher(path=path) for path in fine_tuned] if several else fine_tuned[0]
    asked, forward = [], Teacher.forward

    def counted(self, batch):
        asked.append(len(batch["input_ids"]))
        return forward(self, batch)

    monkeypatch.setattr(Teacher, "forward", counted)

    def train(run, stop_at=None):
        asked.clear()
        one = stage(tmp_path / run, task, general, teacher, SOFT, epochs=3, stop_at=stop_at)
        assert one.trainer.train() == (15 if stop_at else 0)
        return weights(one), sum(asked)

    teachers = 2 if several else 1
    whole, times = train("once")
    assert times == teachers * len(task.train)
    train("stopped", stop_at=5)
    assert all(torch.equal(whole[name], tensor) for name, tensor in train("stopped")[0].items())
    monkeypatch.setattr(Stage, "_ask", lambda *_: None)
    expected, times = train("each time")
    assert times == teachers * (3 * len(task.train) + 2), "and about two rows that show which weights are trained"
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-3)
    losses = [line["s/loss"] for line in read_metrics(tmp_path / "once")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("epochs", "objective"),
    [(1, SOFT), (0.5, SOFT), (2, [*SOFT, {"type": "hidden_states"}]), (2, LABELS)],
    ids=["one epoch", "less", "states too", "no teacher"],
)
def test_a_teacher_is_asked_in_every_step_where_asking_once_would_cost_more_or_not_do(
    epochs, objective, fine_tuned, tmp_path, task, general
):
    one = stage(tmp_path, task, general, fine_tuned[0], objective, epochs=epochs)
    assert not isinstance(one.trainer.teacher, Answers)
    assert one.trainer.train() == 0


@pytest.mark.parametrize(
    ("kind", "num_labels", "numbers"),
    [("sentence", 3, 6 * 3), ("entities", 5, 37 * 5), ("reading", 2, 37 * 2), ("choice", 2, 12 * 2)],
)
def test_more_predictions_than_memory_is_for_are_not_kept(kind, num_labels, numbers, monkeypatch, tmp_path):
    teacher_model(pad_token_id=PAD).save_pretrained(tmp_path)
    labels = {"sentence": ["a", "b", "c"], "entities": ["name", "place"]}.get(kind, [])
    model = load_task_model(str(tmp_path), kind, labels, 0)
    teacher, rows = Teacher(model, [Reads(logits=True)], "float32", "cpu"), rows_of(kind)
    assert model.config.num_labels == num_labels
    monkeypatch.setattr(teachers, "MOST_NUMBERS", numbers)
    assert askable(teacher, rows) == ([teacher], ())
    monkeypatch.setattr(teachers, "MOST_NUMBERS", numbers - 1)
    assert askable(teacher, rows) == ([], ())
