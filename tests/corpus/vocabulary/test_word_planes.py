import json
import sys

import numpy as np
import pytest
import rjieba
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from corpus.shards.shard import read_block
from corpus.vocabulary.tokenizer import TextEncoder, load_tokenizer
from corpus.vocabulary.word_planes import _plane, encode_with_words

TEXTS = ["知识蒸馏的大模型在北京大学", "hello北京", "北", "北京 大学，天地玄黄"]


def joined(text: str, offsets: list[tuple[int, int]], plane: np.ndarray) -> list[str]:
    """The tokens' spellings, those of a word together."""
    words: list[str] = []
    for (begin, end), continues in zip(offsets, plane, strict=True):
        words[len(words) - int(continues) :] = [words[-1] + text[begin:end] if continues else text[begin:end]]
    return words


def character_tokenizer() -> Tokenizer:
    """BERT's, a token a Chinese character."""
    pieces = ["[UNK]", *sorted({char for text in TEXTS for char in text.strip()}), "hel", "##lo"]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def test_tokens_of_a_word_are_joined():
    """Joined by the planes, tokens of a character each are the segmenter's words."""
    tokenizer = character_tokenizer()
    for text in TEXTS:
        offsets = tokenizer.encode(text).offsets
        plane = _plane(rjieba.cut(text), np.array(offsets).reshape(-1, 2))
        assert plane.dtype == bool and not plane[0]
        assert joined(text, offsets, plane) == [word for word in rjieba.cut(text) if word.strip()]


def test_a_token_across_two_words_belongs_to_the_second():
    """「识蒸」 spans two words; what follows continues the second of them."""
    assert rjieba.cut("知识蒸馏") == ["知识", "蒸馏"]
    assert _plane(["知识", "蒸馏"], np.array([(0, 1), (1, 3), (3, 4)])).tolist() == [False, True, True]


def test_ids_are_those_of_the_encoder(wordpiece):
    encoder = TextEncoder(load_tokenizer(str(wordpiece)))
    for (ids, plane), expected in zip(encode_with_words(encoder, TEXTS), encoder.encode(TEXTS), strict=True):
        assert ids.dtype == encoder.dtype and ids.tolist() == expected.tolist() and plane.shape == ids.shape


def asked(tmp_path, tokenizer, **changes) -> BuildConfig:
    source = {"name": "s", "format": "lines", "inputs": [str(tmp_path / "in.txt")]}
    state = {"sources": [source], "tokenizer": str(tokenizer), "output": str(tmp_path / "out"), "whole_words": True}
    return BuildConfig.model_validate_json(json.dumps(state | changes))


def test_a_corpus_holds_the_planes_of_its_documents(tmp_path, wordpiece):
    texts = ["天地玄黄宇宙洪荒日月", "日月天地", "荒"]  # in characters that the tokenizer has
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf-8")
    manifest, is_new = build_corpus(asked(tmp_path, wordpiece), num_workers=1)
    assert is_new and manifest.has_word_planes
    block = read_block(manifest, 0)
    encoder = TextEncoder(load_tokenizer(str(wordpiece)))
    ids, planes = zip(*encode_with_words(encoder, texts), strict=True)
    assert block.ids.tolist() == np.concatenate(ids).tolist()
    assert block.continues_word is not None and block.continues_word.any()
    assert block.continues_word.tolist() == np.concatenate(planes).tolist()
    assert not build_corpus(asked(tmp_path, wordpiece), num_workers=1)[1]
    with pytest.raises(ValueError, match="holds another corpus"):
        build_corpus(asked(tmp_path, wordpiece, whole_words=False), num_workers=1)


def test_a_missing_segmenter_is_reported_before_anything_is_read(tmp_path, wordpiece, monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(ValueError, match=r"whole_words needs the package rjieba: pip install rjieba==0\.2\.2"):
        build_corpus(asked(tmp_path, wordpiece), num_workers=1)
    assert not (tmp_path / "out.partial").exists()
