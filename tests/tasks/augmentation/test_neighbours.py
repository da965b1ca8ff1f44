"""Neighbours are the nearest by the embeddings among words of the same length and part of speech."""

import pytest
import rjieba
import torch

from tasks.augmentation.neighbours import Neighbours
from tasks.augmentation.texts import Text, Word, common_words, fits
from tests.tasks.augmentation.conftest import CHARACTERS, OneWord


def text_of(*words):
    text = "".join(words)
    places = [sum(map(len, words[:n])) for n in range(len(words))]
    return Text("sentence", text, words, tuple(Word(*one, "n") for one in zip(places, words, strict=True)))


@pytest.fixture
def embeddings(small_tokenizer):
    """Characters lie on a circle, in their order."""
    vectors = torch.randn(len(small_tokenizer), 8, generator=torch.Generator().manual_seed(1)) * 0.01
    for number, character in enumerate(CHARACTERS):
        angle = torch.tensor(2 * torch.pi * number / len(CHARACTERS))
        vectors[small_tokenizer.convert_tokens_to_ids(character), :2] = torch.stack([angle.cos(), angle.sin()])
    return vectors


WORDS = [2 * character for character in CHARACTERS]  # each with the vector of its character


def test_the_nearest_come_first_and_never_the_word_itself(embeddings, small_tokenizer):
    source = Neighbours(embeddings, small_tokenizer, [*WORDS, "天地玄", "荒日月"], OneWord(), 2)
    ((found,),) = source.candidates([text_of("玄玄")])
    assert set(found) == {"地地", "黄黄"}
    ((found,),) = source.candidates([text_of("天地玄")])
    assert found == ["荒日月"]  # the only other word of three characters


def test_batched_and_one_by_one_are_the_same(embeddings, small_tokenizer):
    texts = [text_of(*WORDS[n : n + 3]) for n in range(10)]
    together = Neighbours(embeddings, small_tokenizer, WORDS, OneWord(), 5).candidates(texts)
    apart = [Neighbours(embeddings, small_tokenizer, WORDS, OneWord(), 5).candidates([text])[0] for text in texts]
    assert together == apart and all(len(one) == 5 for found in together for one in found)


def test_words_of_one_character_or_without_pieces_have_no_neighbours(embeddings, small_tokenizer):
    source = Neighbours(embeddings, small_tokenizer, [*WORDS, *CHARACTERS, "猫猫"], OneWord(), 5)
    unknown, single, known = source.candidates([text_of("猫猫", "天", "天天")])[0]
    assert unknown == single == [] and len(known) == 5
    with pytest.raises(ValueError, match="its tokenizer has pieces for none of the words of these texts"):
        Neighbours(embeddings, small_tokenizer, ["猫", "狗"], OneWord(), 5)


@pytest.mark.parametrize(
    ("candidate", "word", "part", "expected"),
    [
        ("教师", "老师", "n", True),
        ("老师", "老师", "n", False),  # the word itself
        ("喜欢", "老师", "n", False),  # a verb
        ("师", "老师", "n", False),  # of another length
        ("雏业", "文旅", "n", False),  # no word of the dictionary
        ("hi", "老师", "n", False),
        ("##", "老师", "n", False),
        ("是", "买", "v", False),  # a function word
    ],
)
def test_a_candidate_is_another_word_of_its_kind(candidate, word, part, expected):
    assert fits(candidate, Word(0, word, part), rjieba) is expected


def test_common_words_are_counted_and_are_chinese():
    texts = ["老师喜欢手机", "老师 iPhone 手机", "老师"]
    assert common_words(texts, rjieba) == ["老师", "手机", "喜欢"]
    assert common_words(texts, rjieba, 1) == ["老师"]
