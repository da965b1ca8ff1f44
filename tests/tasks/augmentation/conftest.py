"""A segmenter to which every word is a noun of its dictionary, and a random masked-language model of few characters."""

import pytest
import rjieba
from transformers import AutoModelForMaskedLM, BertTokenizer

from pretrain.models.vocabulary_head import VocabularyHead
from tests.pretrain.tiny import teacher_model

CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"


class AnyWord:
    """rjieba's words; all that it is asked for are nouns of its dictionary."""

    def tag(self, text):
        return [(word, "n") for word in rjieba.cut(text)]

    def has_word(self, word):
        return True


class OneWord(AnyWord):
    """Every text is one word."""

    def tag(self, text):
        return [(text, "n")]


class Pairs(AnyWord):
    """Words of two characters each."""

    def tag(self, text):
        return [(text[start : start + 2], "n") for start in range(0, len(text), 2)]


@pytest.fixture(scope="session")
def small_tokenizer():
    """A piece a character, some of them only inside words, and a word of Latin letters."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, "##天", "##地", "hello", "，"]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


@pytest.fixture(scope="session")
def masked_model(small_tokenizer):
    """The whole model, whose predictions depend on the other tokens."""
    model = teacher_model("bert", AutoModelForMaskedLM, vocab_size=len(small_tokenizer), initializer_range=0.4)
    return model.eval()


@pytest.fixture(scope="session")
def head(masked_model):
    return VocabularyHead(masked_model)
