"""Whole words are filled as by a plain search with the whole model; candidates are Chinese words of one length."""

import pytest
import torch
from transformers import AutoModelForMaskedLM

from pretrain.models.vocabulary_head import VocabularyHead
from tasks.augmentation.masked_language import MaskedLanguage
from tasks.augmentation.texts import Text, Word
from tests.pretrain.tiny import teacher_model
from tests.tasks.augmentation.conftest import CHARACTERS, OneWord, Pairs
from tests.tasks.conftest import build_unigram, fast

CPU = torch.device("cpu")


def text_of(text, *words):
    return Text("sentence", text, (text,), tuple(Word(text.index(word), word, "n") for word in words))


def source(head, tokenizer, number=5, segmenter=None):
    return MaskedLanguage(head, tokenizer, segmenter or Pairs(), number, CPU)


@torch.no_grad()
def log_probs(model, tokenizer, text, start, filled, length):
    """Of every character at the next place, from [CLS] masked text [SEP] text [SEP]."""
    masked = [*text[:start], *filled, *["[MASK]"] * (length - len(filled)), *text[start + length :]]
    ids = [tokenizer.cls_token_id, *tokenizer.convert_tokens_to_ids(masked), tokenizer.sep_token_id]
    second = [*tokenizer.convert_tokens_to_ids([*text]), tokenizer.sep_token_id]
    types = [0] * len(ids) + [1] * len(second)
    logits = model(input_ids=torch.tensor([ids + second]), token_type_ids=torch.tensor([types])).logits
    values = logits[0, 1 + start + len(filled)].log_softmax(-1)
    return {one: values[tokenizer.convert_tokens_to_ids(one)].item() for one in CHARACTERS}


def reference(model, tokenizer, text, word, number):
    """A row at a time: the four likeliest beginnings, each followed by what then is likely."""
    beams = {"": 0.0}
    for place in range(len(word)):
        grown = {}
        for begun, score in beams.items():
            for one, value in log_probs(model, tokenizer, text, text.index(word), begun, len(word)).items():
                grown[begun + one] = score + value
        most = len(grown) if place == len(word) - 1 else 4
        beams = dict(sorted(grown.items(), key=lambda pair: -pair[1])[:most])
    return [one for one in beams if one != word][:number]


def test_words_are_filled_as_by_the_plain_search(masked_model, small_tokenizer, head):
    texts = [
        text_of("天地玄黄宇宙洪荒", "天地", "宇宙"),
        text_of("日月盈昃", "月盈昃"),
        text_of("寒来暑往秋收", "秋收", "寒来"),
        text_of("辰宿", "辰"),
    ]

    found = source(head, small_tokenizer, segmenter=OneWord()).candidates(texts)
    for text, options in zip(texts, found, strict=True):
        for word, candidates in zip(text.words, options, strict=True):
            assert candidates == reference(masked_model, small_tokenizer, text.text, word.text, 5), word


def test_batched_and_one_by_one_are_the_same(small_tokenizer, head):
    texts = [text_of(CHARACTERS[n : n + 4 + n % 5], CHARACTERS[n + 1 : n + 3]) for n in range(12)]
    one = source(head, small_tokenizer)
    assert one.candidates(texts) == [one.candidates([text])[0] for text in texts]


def test_candidates_are_chinese_words_of_the_same_length(small_tokenizer, head):
    text = text_of("天地，hello日月盈昃", "天地", "日月")
    found = source(head, small_tokenizer, number=200).candidates([text])[0]
    for word, candidates in zip(text.words, found, strict=True):
        assert len(candidates) > 50 and len(set(candidates)) == len(candidates)
        assert word.text not in candidates
        assert all(len(one) == 2 and set(one) <= set(CHARACTERS) for one in candidates)


def test_words_across_tokens_or_behind_the_last_position_have_no_candidates(small_tokenizer, head):
    long = "天地玄黄" * 20  # 40 positions
    text = Text("sentence", long, (long,), (Word(0, "天地", "n"), Word(76, "天地", "n")))
    first, last = source(head, small_tokenizer).candidates([text])[0]
    assert first and not last


@pytest.fixture(scope="module")
def unigram():
    from tokenizers import Tokenizer, models, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *CHARACTERS, "天地", "日月", "宇宙", "洪荒日", "▁天"]
    backend = Tokenizer(models.Unigram([(one, -9.0 + len(one)) for one in pieces], unk_id=3))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = fast(backend)
    tokenizer.mask_token = "<mask>"
    return tokenizer


def test_pieces_of_several_characters_keep_the_length_too(unigram):
    model = teacher_model("xlm-roberta", AutoModelForMaskedLM, vocab_size=len(unigram), initializer_range=0.4)
    text = Text(
        "sentence", "天地玄黄日月", ("天地玄黄日月",), (Word(0, "天地", "n"), Word(2, "玄黄", "n"), Word(1, "地", "n"))
    )
    whole, apart, inside = source(VocabularyHead(model), unigram, 99, Pairs()).candidates([text])[0]
    assert {"日月", "宇宙"} == set(whole)  # one piece for one piece
    assert apart and all(len(one) == 2 for one in apart)
    assert inside == []  # its ends are not those of a piece


def test_what_it_needs_is_said(unigram, small_tokenizer, head):
    with pytest.raises(ValueError, match="masked_language needs a mask token, and its tokenizer has none; use"):
        source(head, build_unigram())
