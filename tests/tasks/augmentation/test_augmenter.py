"""Copies of records of every kind: what is changed, how often, and what stays."""

from collections import Counter

import numpy as np
import pytest
import rjieba
import torch

from tasks.augmentation.augmenter import Augmenter
from tasks.augmentation.config import AugmentationConfig
from tasks.augmentation.copies import WordReplacer, draw_copies
from tasks.augmentation.texts import Text, Word, texts_of
from tasks.config import TaskConfig

PAIR = {"kind": "pair", "columns": {"text": "a", "text_b": "b"}}
CSV = {"format": "csv", "has_header": False, "columns": {"text": 1, "label": 0}}
SENTENCE = "老师喜欢手机，家长购买发票，学生参加考试"


class Swapped:
    """Two candidates for each word: its characters in two ways."""

    def candidates(self, texts):
        return [[["甲" * len(word.text), "乙" * len(word.text)] for word in text.words] for text in texts]


def task(**keys):
    return TaskConfig.model_validate({"name": "t", "kind": "sentence", "train": "a", "dev": "b"} | keys)


def augment(records, vectors=None, source=Swapped, task_keys=None, **keys):
    config = AugmentationConfig.model_validate({"source": "neighbours", "model": "m", "drop": 0.0} | keys)
    numbered = [(number, (f"f:{number}", record)) for number, record in enumerate(records)]
    one = Augmenter(task(**task_keys or {}), config, rjieba, source() if source else None, "[MASK]", vectors)
    return one.augment(numbered)


def test_copies_are_new_and_name_their_record():
    records = [{"id": "x", "sentence": SENTENCE, "label": "1", "more": [1]}, {"sentence": "手机", "label": "2"}]
    first, second = augment(records, copies=20)
    texts = [one["sentence"] for one in first]
    assert len(set(texts)) == 20 and SENTENCE not in texts
    assert {one["source"] for one in first} == {"x"} and all(len(text) == len(SENTENCE) for text in texts)
    assert first[0] == records[0] | {"sentence": texts[0], "augmented": True, "source": "x"}
    assert {one["sentence"] for one in second} == {"甲甲", "乙乙"} and {one["source"] for one in second} == {1}


def test_of_a_pair_one_text_is_changed_and_the_other_is_the_original():
    record = {"a": SENTENCE, "b": "学生购买手机", "label": "1"}
    (found,) = augment([record], copies=12, task_keys=PAIR)
    changed = [(one["a"] != record["a"], one["b"] != record["b"]) for one in found]
    assert Counter(changed) == {(True, False): 6, (False, True): 6}


def test_words_are_replaced_at_the_rate_that_is_asked_for():
    words = tuple(Word(2 * n, "甲乙", "n") for n in range(300))
    text = Text("s", "甲乙" * 300, ("甲乙",) * 300, words)
    for prob in (0.1, 0.4, 1.0):
        copier = WordReplacer(text, [["丙丁", "戊己", "庚辛"]] * 300, prob)
        drawn = [copier.draw(np.random.default_rng([1, n])) for n in range(20)]
        parts = Counter(copy[2 * n : 2 * n + 2] for copy in drawn for n in range(300))
        number = 300 * 20
        replaced = number - parts["甲乙"]
        assert abs(replaced - prob * number) <= 3 * (number * prob * (1 - prob)) ** 0.5
        for one in ("丙丁", "戊己", "庚辛"):
            assert abs(parts[one] - replaced / 3) <= 3 * (replaced * 2 / 9) ** 0.5


def test_a_copy_depends_on_seed_row_and_place_alone():
    def drawn(seed, row, number=5):
        words = tuple(Word(2 * n, "甲乙", "n") for n in range(30))
        copier = WordReplacer(Text("s", "甲乙" * 30, (), words), [["丙丁", "戊己"]] * 30, 0.4)
        return draw_copies([copier], ["甲乙" * 30], number, seed, row)

    assert drawn(1, 2) == drawn(1, 2) == drawn(1, 2, 9)[:5]
    assert drawn(1, 2) != drawn(2, 2) and drawn(1, 2) != drawn(1, 3)


def test_records_together_are_copied_as_each_alone():
    records = [{"id": n, "sentence": SENTENCE[n:], "label": "1"} for n in range(6)]
    together = augment(records, copies=4)
    config = AugmentationConfig(source="neighbours", model="m", drop=0.0, copies=4)
    one = Augmenter(task(), config, rjieba, Swapped(), "[MASK]", None)
    assert together == [one.augment([(n, ("f", record))])[0] for n, record in enumerate(records)]


def test_those_least_like_their_text_are_dropped():
    def vectors(texts):
        """The more a text is changed the farther it is."""
        return torch.stack([torch.tensor([1.0, text.count("甲") + text.count("乙")]) for text in texts])

    record = {"sentence": SENTENCE, "label": "1"}
    (kept,) = augment([record], vectors, copies=5, drop=0.5)
    (all_,) = augment([record], vectors, copies=10, drop=0.0)
    assert len(kept) == 5 and len(all_) == 10
    worst = sorted(one["cosine"] for one in all_)[:5]
    assert min(one["cosine"] for one in kept) >= max(worst)
    assert [one["sentence"] for one in all_ if one in kept] == [one["sentence"] for one in kept]


def test_entities_and_spans_stay_in_their_places():
    record = {"text": SENTENCE, "label": {"name": {"手机": [[4, 5]], "家长": [[7, 8]]}}}
    (found,) = augment([record], copies=20, task_keys={"kind": "entities"}, prob=1.0)
    assert found and all(one["text"][4:6] == "手机" and one["text"][7:9] == "家长" for one in found)
    assert all(len(one["text"]) == len(SENTENCE) and one["label"] == record["label"] for one in found)
    target = {"span1_index": 0, "span1_text": "老师", "span2_index": 14, "span2_text": "学生参加"}
    record = {"text": SENTENCE, "target": target, "label": "true"}
    (found,) = augment([record], copies=20, task_keys={"kind": "coreference"}, prob=1.0)
    assert found and all(one["text"][:2] == "老师" and one["text"][14:18] == "学生参加" for one in found)


def test_columns_without_names_get_names_of_json_and_lists_are_joined():
    (found,) = augment([{0: "x", 1: "老师手机"}], copies=2, task_keys=CSV)
    assert set(found[0]) == {"0", "1", "augmented", "source"} and found[0]["1"] != "老师手机"
    (found,) = augment([{"sentence": ["老师", "手机"], "label": "1"}], copies=2)
    assert all(len(one["sentence"]) == 5 and one["sentence"][2] == " " for one in found)


def test_masked_copies_have_masks_and_pieces_of_the_text():
    record = {"sentence": SENTENCE, "label": "1"}
    (found,) = augment([record], source=None, copies=200, prob=0.2)
    segments = [word for word, _ in rjieba.tag(SENTENCE)]
    words = [one["sentence"].replace("[MASK]", "囗") for one in found]
    assert any("囗" in one for one in words)
    short = [one for one in words if len(one) < len("".join(segments)) / 2]
    assert len(short) > 10


def test_function_words_punctuation_other_scripts_and_guessed_words_are_left():
    (text,) = texts_of(
        ("f:1", {"sentence": "老师的iPhone不是2017年买的，没有雏业，我们喜欢", "label": "1"}), task(), rjieba
    )
    assert {word.text for word in text.words} == {"老师", "买", "喜欢"} and text.words[0].start == 0
    assert "雏业" in text.segments and "".join(text.segments) == text.text


def test_a_record_that_lacks_a_column_is_named():
    with pytest.raises(ValueError, match="f:0: has no sentence; it has text, label"):
        augment([{"text": "x", "label": "1"}])
    with pytest.raises(ValueError, match="f:0: span '老师' is not the text at position 3"):
        target = {"span1_index": 3, "span1_text": "老师", "span2_index": 0, "span2_text": "老"}
        augment([{"text": SENTENCE, "target": target, "label": "true"}], task_keys={"kind": "coreference"})


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("reading", "neighbours", "t: kind reading cannot be augmented: answers are words of the text at a place in "
         "it, and both would change; give more texts without labels as task.unlabelled"),
        ("choice", "masked_language", "t: kind choice cannot be augmented: questions and choices are about words"),
        ("idioms", "mask_and_ngram", "t: kind idioms cannot be augmented: questions and choices"),
        ("entities", "mask_and_ngram", "and the spans of kind entities would move; use masked_language or neighbours"),
        ("coreference", "mask_and_ngram", "the spans of kind coreference would move"),
    ],
)  # fmt: skip
def test_what_cannot_be_augmented_is_refused_with_what_would_work(kind, source, message):
    keys = {"window_stride": 8} if kind == "reading" else {}
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(source=source, model="m").check(task(kind=kind, **keys))


def test_defaults_are_those_of_the_source():
    replaced, masked = (AugmentationConfig(source=one, model="m") for one in ("neighbours", "mask_and_ngram"))
    assert (replaced.chosen_prob, replaced.chosen_drop) == (0.4, 0.5)
    assert (masked.chosen_prob, masked.chosen_drop) == (0.1, 0.0)
