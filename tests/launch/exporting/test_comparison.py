"""Differences, cosines, neighbours and changed answers are counted right, and what is too much is refused."""

import math

import pytest
import torch

from launch.exporting.comparison import Answered, Material, ask_all, compare, losses
from tasks.examples import Classified, Entity, Question, Tagged
from tasks.rows import Row
from tests.tasks.conftest import build_wordpiece

TOKENIZER = build_wordpiece()


def states(batch, shift=0.0):
    """Each token's state is its id, and 1; padding has nonsense."""
    ids = batch["input_ids"].float()
    found = torch.stack([ids + shift, torch.ones_like(ids)], -1)
    return {"last_hidden_state": found.masked_fill(batch["attention_mask"].unsqueeze(-1) == 0, 1e6 * shift)}


def test_differences_are_of_real_tokens_and_cosines_of_centred_vectors():
    material = Material(["天", "天地玄", "宇宙洪荒日月"])
    forms = {"torch": states, "onnx": lambda batch: states(batch, 0.5)}
    answered = ask_all(forms, material, TOKENIZER, 20, 100)
    figures = compare(answered, material)
    assert figures["torch"] == {"difference": 0, "cosine": pytest.approx(1), "least_cosine": pytest.approx(1)}
    assert figures["onnx"]["difference"] == pytest.approx(0.5, abs=1e-3)
    # centred: two vectors on either side of the mean, turned round, have cosine -1
    vectors = torch.tensor([[10.0, 1.0], [10.0, -1.0]])
    turned = compare({"torch": Answered(vectors=vectors), "int8": Answered(vectors=vectors.flip(0))}, Material())
    assert turned["int8"]["cosine"] == pytest.approx(-1)


def test_what_is_no_number_is_a_difference_without_end():
    def broken(batch):
        return {name: value * math.nan for name, value in states(batch).items()}

    found = ask_all({"torch": states, "onnx": broken}, Material(["天", "地"]), TOKENIZER, 20, 100)
    assert found["onnx"].difference == math.inf
    assert losses({"onnx": {"difference": math.inf}}) == ["onnx: differs by up to inf; at most 0.0001 is allowed"]
    assert losses({"int8": {"difference": 0.0, "cosine": math.nan}})


def test_rows_of_random_tokens_have_every_length_and_no_padding_inside():
    seen = []

    def keep(batch):
        seen.append(batch)
        return states(batch)

    ask_all({"torch": keep}, Material(), TOKENIZER, 40, 60)
    lengths = sorted(int(mask.sum()) for batch in seen for mask in batch["attention_mask"])
    assert len(lengths) == 64 and lengths[0] == 1 and lengths[-1] == 40 and len(set(lengths)) == 40
    for batch in seen:
        is_padding = batch["input_ids"] == TOKENIZER.pad_token_id
        assert torch.equal(is_padding, batch["attention_mask"] == 0) and batch["input_ids"].max() < 60


def test_neighbours_are_scored_where_texts_have_labels():
    vectors = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    labels = [int(value > 0) for value in vectors[:, 0]]
    material = Material([""] * 40, labels, 30)
    forms = {"torch": Answered(vectors=vectors), "int8": Answered(vectors=vectors.roll(1, 0))}
    figures = compare(forms, material)
    assert figures["torch"]["score"] > figures["int8"]["score"] and 0 < figures["torch"]["score_error"] < 0.2


class Task:
    """As much of a task's configuration as scores read."""

    def __init__(self, kind, scored_by):
        self.kind, self.scored_by, self.name = kind, scored_by, "t"


def row(example, length=4, offsets=()):
    return Row([2] * length, [0] * length, {}, example, offsets)


def test_changed_answers_of_classes_are_counted():
    examples = [Classified("天", None, label) for label in (0, 1, 1, 0)]
    material = Material(task=Task("sentence", "accuracy"), rows=[row(i) for i in range(4)], examples=examples,
                        names=["a", "b"])  # fmt: skip
    first = torch.tensor([[1.0, 0], [0, 1.0], [0, 1.0], [1.0, 0]])
    other = first.clone()
    other[2] = torch.tensor([2.0, 1.0])
    figures = compare({"torch": Answered(logits=[*first]), "int8": Answered(logits=[*other])}, material)
    assert (figures["torch"]["changed"], figures["torch"]["score"]) == (0, 1)
    assert (figures["int8"]["changed"], figures["int8"]["score"]) == (0.25, 0.75)


def test_changed_answers_of_entities_are_changed_tags_of_characters():
    offsets = (None, (0, 1), (1, 2), None)
    material = Material(task=Task("entities", "entity_f1"), rows=[row(0, 4, offsets), row(1, 4, offsets)],
                        examples=[Tagged("天地", (Entity(0, 1, "x"),)), Tagged("玄黄", ())], names=["x"])  # fmt: skip
    tags = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    special, character = tags.clone(), tags.clone()
    special[0] = torch.tensor([0.0, 1, 0])  # the tag of a special token is nobody's
    character[2] = torch.tensor([0.0, 1, 0])
    same = compare({"torch": Answered(logits=[tags, tags]), "int8": Answered(logits=[special, tags])}, material)
    changed = compare({"torch": Answered(logits=[tags, tags]), "int8": Answered(logits=[character, tags])}, material)
    assert (same["int8"]["changed"], changed["int8"]["changed"]) == (0, 0.5)


def test_changed_answers_of_questions_are_changed_words():
    offsets = (None, (0, 1), (1, 2), (2, 3))
    question = Question("q", "何", "天地玄", ((0, "天地"),))
    material = Material(task=Task("reading", "exact_match"), rows=[row(0, 4, offsets)], examples=[question])
    logits = torch.tensor([[9.0, 9], [5, 0], [0, 5], [0, 0]])
    other = torch.tensor([[9.0, 9], [5, 0], [0, 0], [0, 5]])
    figures = compare({"torch": Answered(logits=[logits]), "int8": Answered(logits=[other])}, material)
    assert figures["torch"]["score"] == 1 and (figures["int8"]["changed"], figures["int8"]["score"]) == (1, 0)


def test_limits():
    good = {"onnx": {"difference": 9e-5, "cosine": 1.0}, "int8": {"difference": 0.5, "cosine": 0.981}}
    assert losses(good) == [] == losses({"int8": {"difference": 0.5, "changed": 0.01}})
    assert losses({"onnx": {"difference": 2e-4, "changed": 0.02}}) == [
        "onnx: differs by up to 0.0002; at most 0.0001 is allowed",
        "onnx: changes 2.00% of the answers; at most 1% is allowed",
    ]
    model = {"difference": 0.0, "changed": 0.0, "score": 0.509}
    assert losses({"torch": model, "int8": {"difference": 0.5, "changed": 0.014, "score": 0.51}}) == [
        "int8: changes 1.40% of the answers (score 0.5100, the model's 0.5090); at most 1% is allowed"
    ]
    assert losses({"int8": {"difference": 0.5, "cosine": 0.9712}}) == [
        "int8: mean cosine 0.9712; at least 0.98 is wanted"
    ]
