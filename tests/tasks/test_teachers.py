"""Several teachers: probabilities are averaged after the softmax, losses of layers as such; each runs once a batch."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pretrain.models.encoder import Features, Reads, union
from pretrain.models.teacher import Teacher
from pretrain.training.metrics import read_metrics
from tasks.label_objectives import TASK, SoftLabelsConfig
from tasks.readers import read_task
from tasks.stage import encode_task
from tasks.teachers import EachTeacher, SeveralTeachers, WeightedTeacher, shares_of
from tests.pretrain.tiny import batch, features, shape, teacher_model
from tests.tasks.test_label_objectives import KINDS, draw, loss
from tests.tasks.test_stage import LABELS, dev_scores, stage, weights

FAMILIES = ("bert", "modernbert", "albert")


def task_teacher(model_type="bert", seed=0):
    """With large weights, so that every layer changes the answer."""
    model = teacher_model(model_type, AutoModelForSequenceClassification, initializer_range=0.5, pad_token_id=0)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.classifier.weight)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_whose_predictions_are_read_keeps_all_its_layers(family):
    model, values = task_teacher(family), batch()
    with torch.no_grad():
        expected = model(values["input_ids"], values["attention_mask"]).logits
    found = Teacher(model, [Reads(logits=True)], "float32", "cpu")(values).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    both = Teacher(model, [Reads(logits=True), Reads(hidden_states=frozenset({1}))], "float32", "cpu")(values)
    torch.testing.assert_close(both.logits, expected, atol=1e-4, rtol=1e-4)
    assert set(both.hidden_states) == {1, 4}


def together(first, second):
    """Logits of two teachers."""
    return Features(several=[(0.25, Features(logits=first)), (0.75, Features(logits=second))])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_averaged_after_the_softmax_at_the_temperature(kind, temperature):
    (student, values), teachers = draw(kind), [draw(kind, seed)[0] for seed in (1, 2)]
    objective = SoftLabelsConfig(type="soft_labels", temperature=temperature).build(shape(), shape())
    several = together(*teachers)
    (found,) = objective(several, Features(logits=student), values).values()
    alone = [loss("soft_labels", student, values, one, temperature=temperature) for one in teachers]
    torch.testing.assert_close(found, 0.25 * alone[0] + 0.75 * alone[1])  # cross-entropy is linear in its targets
    of_mean = loss("soft_labels", student, values, 0.25 * teachers[0] + 0.75 * teachers[1], temperature=temperature)
    assert not torch.allclose(found, of_mean, rtol=2e-5)
    assert torch.equal(
        objective(Features(logits=teachers[0]), Features(logits=student), values)["soft_labels"], alone[0]
    )


def test_each_teacher_runs_once_a_batch_and_weights_are_shares():
    teachers = [Teacher(task_teacher(seed=seed), [Reads(logits=True)], "float32", "cpu") for seed in (1, 2)]
    several, calls, values = SeveralTeachers(teachers, [0.25, 0.75]), [], batch()
    for index, one in enumerate(teachers):
        one.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = several(values)
    assert calls == [0, 1] and features.logits is None
    assert [share for share, _ in features.several] == [0.25, 0.75]
    for (_, own), one in zip(features.several, teachers, strict=True):
        assert torch.equal(own.logits, one(values).logits) and not own.logits.requires_grad
    assert not torch.equal(*(own.logits for _, own in features.several))


def test_weights_are_shares():
    assert shares_of([WeightedTeacher(path="a"), WeightedTeacher(path="b", weight=3)]) == [0.25, 0.75]


OF_LAYERS = [
    {"type": "minilm_v2", "num_relation_heads": 4},
    {"type": "hidden_states", "weight": 2.0},
    {"type": "tinybert"},
    {"type": "pkd", "layer_map": [2]},
]


@pytest.mark.parametrize("values", OF_LAYERS, ids=lambda one: one["type"])
def test_a_loss_of_layers_is_the_average_of_those_of_each_teacher(values):
    """Of teachers of other widths and depths than one another."""
    config, own = TASK.validate(values, None), shape(2, 12)
    shapes, student = (shape(4, 24), shape(3, 16)), features(2, 12, seed=1, requires_grad=True)
    taught = [features(one.num_layers, one.hidden_size, seed=2) for one in shapes]
    rows = {"input_ids": torch.ones(3, 9, dtype=torch.int64)}
    each = [config.build(one, own) for one in shapes]
    found = EachTeacher(each)
    terms = found(Features(several=list(zip((0.25, 0.75), taught, strict=True))), student, rows)
    alone = [one.total(one(teacher, student, rows)) for one, teacher in zip(each, taught, strict=True)]
    torch.testing.assert_close(found.total(terms), 0.25 * alone[0] + 0.75 * alone[1])
    assert found.teacher_reads == union(one.teacher_reads for one in each) and len(list(found.parameters())) == sum(
        len(list(one.parameters())) for one in each
    )


def test_a_stage_learns_states_of_two_teachers_and_resumes_exactly(tmp_path, first_character, general, wordpiece):
    """One of them narrower; each is cut where its own layers are read no further, and has projections of its own."""
    task = encode_task(first_character, read_task(first_character), general)
    for name, sizes in (("wide", {}), ("narrow", {"hidden_size": 16, "num_hidden_layers": 3})):
        teacher_model(vocab_size=len(wordpiece), initializer_range=0.3, **sizes).save_pretrained(tmp_path / name)
        wordpiece.save_pretrained(tmp_path / name)
    teachers = [WeightedTeacher(path=str(tmp_path / name)) for name in ("wide", "narrow")]
    objective = [{"type": "minilm_v2", "num_relation_heads": 4, "teacher_layer": 2}, {"type": "hidden_states"}]

    def train(run, stop_at=None):
        one = stage(tmp_path / run, task, general, teachers, objective, epochs=3, stop_at=stop_at)
        assert one.trainer.train() == (15 if stop_at else 0)
        return one

    whole, _, resumed = train("whole"), train("stopped", stop_at=3), train("stopped")
    assert all(torch.equal(one, weights(resumed)[name]) for name, one in weights(whole).items())
    assert [one.projections[0].weight.shape for one in whole.student.objectives[1].each] == [(24, 24), (16, 24)]
    losses = [line["s/loss"] for line in read_metrics(tmp_path / "whole")]
    assert losses[-1] < losses[0]


def test_a_stage_of_two_teachers_learns_from_both_and_resumes_exactly(tmp_path, first_character, general):
    task, teachers = encode_task(first_character, read_task(first_character), general), []
    for seed, weight in ((1, 1.0), (2, 2.0)):
        one = stage(tmp_path / f"ft{seed}", task, general, epochs=2, seed=seed)
        assert one.trainer.train() == 0
        one.student.published.save_pretrained(tmp_path / f"model{seed}")
        teachers.append(WeightedTeacher(path=str(tmp_path / f"model{seed}"), weight=weight))
    objective = [*LABELS, {"type": "soft_labels", "temperature": 2.0}]

    def train(run, given, stop_at=None):
        one = stage(tmp_path / run, task, general, given, objective, epochs=2, stop_at=stop_at)
        assert one.trainer.train() == (15 if stop_at else 0)
        assert 0 <= dev_scores(one)["accuracy"] <= 1
        return weights(one)

    whole, _, resumed = train("whole", teachers), train("stopped", teachers, stop_at=3), train("stopped", teachers)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first = train("first", teachers[:1])
    assert all(torch.equal(tensor, first[name]) for name, tensor in train("alone", teachers[0].path).items())
    assert not torch.equal(first["encoder.model.classifier.weight"], whole["encoder.model.classifier.weight"])
