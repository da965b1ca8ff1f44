"""Several teachers: their probabilities are averaged after the softmax, each runs once a batch, none of them is cut."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pretrain.models.encoder import Features, Reads
from pretrain.models.teacher import Teacher
from tasks.label_objectives import SoftLabelsConfig
from tasks.readers import read_task
from tasks.stage import encode_task
from tasks.teachers import SeveralTeachers, WeightedTeacher
from tests.pretrain.tiny import batch, shape, teacher_model
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


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_averaged_after_the_softmax_at_the_temperature(kind, temperature):
    (student, values), teachers = draw(kind), [draw(kind, seed)[0] for seed in (1, 2)]
    objective = SoftLabelsConfig(type="soft_labels", temperature=temperature).build(shape(), shape())
    several = Features(weighted_logits=[(0.25, teachers[0]), (0.75, teachers[1])])
    (found,) = objective(several, Features(logits=student), values).values()
    alone = [loss("soft_labels", student, values, one, temperature=temperature) for one in teachers]
    torch.testing.assert_close(found, 0.25 * alone[0] + 0.75 * alone[1])  # cross-entropy is linear in its targets
    of_mean = loss("soft_labels", student, values, 0.25 * teachers[0] + 0.75 * teachers[1], temperature=temperature)
    assert not torch.allclose(found, of_mean, rtol=2e-5)
    one = Features(weighted_logits=[(1.0, teachers[0])])
    assert torch.equal(objective(one, Features(logits=student), values)["soft_labels"], alone[0])


def test_each_teacher_runs_once_a_batch_and_weights_are_shares():
    teachers = [Teacher(task_teacher(seed=seed), [Reads(logits=True)], "float32", "cpu") for seed in (1, 2)]
    several, calls, values = SeveralTeachers(teachers, [1, 3]), [], batch()
    for index, one in enumerate(teachers):
        one.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = several(values)
    assert calls == [0, 1] and features.logits is None
    assert [share for share, _ in features.weighted_logits] == [0.25, 0.75]
    for (_, logits), one in zip(features.weighted_logits, teachers, strict=True):
        assert torch.equal(logits, one(values).logits) and not logits.requires_grad
    assert not torch.equal(features.weighted_logits[0][1], features.weighted_logits[1][1])


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
