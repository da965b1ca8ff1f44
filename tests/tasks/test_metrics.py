"""Metrics equal slow counting by their definitions."""

import random

import pytest

from tasks.examples import Question
from tasks.metrics import score_classes, score_entities, score_reading


def f1_of(num_right: int, num_expected: int, num_predicted: int) -> float:
    return 2 * num_right / (num_expected + num_predicted) if num_right else 0.0


def slow_class_f1(expected, predicted, kind):
    right = sum(a == b == kind for a, b in zip(expected, predicted, strict=True))
    return f1_of(right, expected.count(kind), predicted.count(kind))


@pytest.mark.parametrize("num_classes", [2, 5])
def test_classes_score_what_counting_gives(num_classes):
    draw = random.Random(num_classes)
    for _ in range(20):
        expected, predicted = ([draw.randrange(num_classes) for _ in range(30)] for _ in range(2))
        scores = score_classes(expected, predicted, num_classes)
        right = sum(a == b for a, b in zip(expected, predicted, strict=True))
        assert scores["accuracy"] == pytest.approx(right / 30)
        kinds = set(expected) | set(predicted)
        slow = [slow_class_f1(expected, predicted, kind) for kind in kinds]
        assert scores["macro_f1"] == pytest.approx(sum(slow) / len(slow))
        if num_classes == 2:
            assert scores["f1"] == pytest.approx(slow_class_f1(expected, predicted, 1))


def test_f1_is_there_for_two_classes_only_whatever_the_examples_hold():
    assert score_classes([0, 1, 0], [2, 1, 0], 3).keys() == {"accuracy", "macro_f1"}
    assert score_classes([0, 0], [0, 1], 2) == {"accuracy": 0.5, "f1": 0.0, "macro_f1": pytest.approx(1 / 3)}
    assert score_classes([0, 0], [0, 0], 2)["f1"] == 0.0


def entities(tags):
    """(type, start, end) as conlleval has them: I- begins an entity where none of its type is open."""
    found, before = [], "O"
    for place, tag in enumerate(tags):
        if tag != "O" and (tag[0] == "B" or before[1:] != tag[1:]):
            found.append([tag[2:], place, place])
        if tag != "O":
            found[-1][2] = place + 1
        before = tag
    return {tuple(one) for one in found}


def test_entities_score_what_counting_gives():
    draw = random.Random(0)
    for _ in range(20):
        tags = ["O", "O", "B-a", "I-a", "B-b", "I-b"]
        rows = [[[draw.choice(tags) for _ in range(12)] for _ in range(4)] for _ in range(2)]
        expected, predicted = ({(n, *one) for n, row in enumerate(side) for one in entities(row)} for side in rows)
        scores = score_entities(*rows)
        assert scores["entity_f1"] == pytest.approx(f1_of(len(expected & predicted), len(expected), len(predicted)))
        kinds = {one[1] for one in expected | predicted}
        by_kind = [[{one for one in side if one[1] == kind} for side in (expected, predicted)] for kind in kinds]
        slow = [f1_of(len(a & b), len(a), len(b)) for a, b in by_kind]
        assert scores["entity_macro_f1"] == pytest.approx(sum(slow) / len(slow))


@pytest.mark.parametrize(
    ("expected", "predicted", "score"),
    [
        ("B-a I-a O", "B-a I-a O", 1.0),
        ("B-a I-a O", "I-a I-a O", 1.0),  # I- without B- begins one
        ("B-a I-a O", "B-a O O", 0.0),  # whole or nothing
        ("B-a B-a", "B-a I-a", 0.0),  # two beside each other are not one
        ("B-a I-a B-b", "B-a I-a I-b", 1.0),  # another type begins another
        ("B-a I-a B-b", "B-a I-a O", 2 / 3),
        ("B-a", "O", 0.0),
    ],
)
def test_entities_of_one_row(expected, predicted, score):
    assert score_entities([expected.split()], [predicted.split()])["entity_f1"] == pytest.approx(score)


def test_no_entity_anywhere_scores_nothing():
    assert score_entities([["O", "O"]], [["O", "O"]]) == {"entity_macro_f1": 0.0, "entity_f1": 0.0}


@pytest.mark.parametrize(
    ("answers", "predicted", "f1", "exact"),
    [
        (["零度"], "零度", 1, 1),
        (["零度"], "在零度", 2 * 2 / 5, 0),
        (["甲乙丙丁"], "甲丙", 2 * 1 / 6, 0),  # the longest run, not all common characters
        (["iPhone 6s手机"], "IPHONE 6S", 2 * 2 / 6, 0),  # words of letters are one each
        (["iPhone 6s"], "iphone 6S", 1, 1),
        (["《红楼梦》"], "红楼梦", 1, 1),
        (["2，3-4：5"], "2345", 1, 1),  # without their punctuation these are the same
        (["3.5米"], "3米", 2 * 1 / 4, 0),  # a number is one word
        (["1,000人"], "1,000", 2 * 1 / 3, 0),
        (["约50%"], "50%", 2 * 2 / 5, 0),
        (["甲乙", "丙", "丙丁"], "丙丁", 1, 1),  # the best of several
        (["甲乙", "丙丁戊"], "丙丁", 2 * 2 / 5, 0),
        (["零度"], "", 0, 0),
        ([" 零度 "], "零度", 1, 1),
    ],
)
def test_reading_scores_by_hand(answers, predicted, f1, exact):
    question = Question("Q", "几度", "", tuple((0, words) for words in answers))
    assert score_reading([question], {"Q": predicted}) == {
        "reading_f1": pytest.approx(f1),
        "exact_match": pytest.approx(exact),
    }


def test_reading_scores_are_means_over_questions():
    questions = [Question(name, "几度", "", ((0, "零度"),)) for name in "abcd"]
    scores = score_reading(questions, {"a": "零度", "b": "在零度", "c": "水", "d": ""})
    assert scores == {"reading_f1": pytest.approx((1 + 0.8) / 4), "exact_match": 0.25}
