import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from corpus.building.builder import build_corpus
from corpus.cleaning.normalization import normalize
from corpus.config import BuildConfig
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import read_block
from corpus.vocabulary import wordpiece
from corpus.vocabulary.tokenizer import TextEncoder, UnequalIds
from corpus.vocabulary.wordpiece import WordPieceTable, is_wordpiece

SHARED = Path(__file__).parents[3] / "../shared/data"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    "天",
    "地",
    "的",
    "，",
    "a",
    "b",
    "##a",
    "##b",
    "ab",
    "A",
    "##B",
    "e",
    "é",
    "##1",
    "1",
    ",",
    ".",
    "一",
    "㐀",
    "𠀀",
    "##\u0301",
]
NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
# What is special to some part of the tokenizer, between what is ordinary
TRICKY = "天地aAb1,. \n\t\u0301\u0338\u200b\u302e\ufeff\u00adÀéİßΣσς≠한각ｶﾞＡ１㊙️👩‍👩‍👧𠀀龘\u3000\u2028\x00�"


def build_backend(**settings) -> Tokenizer:
    vocab = {piece: index for index, piece in enumerate([*SPECIAL, *PIECES])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=20))
    backend.normalizer = normalizers.BertNormalizer(**settings)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(SPECIAL)
    return backend


@pytest.fixture(scope="module", params=["uncased", "cased", "lowercase with accents"])
def tokenizer(request):
    settings = {
        "uncased": {"lowercase": True},
        "cased": {"lowercase": False},
        "lowercase with accents": {"lowercase": True, "strip_accents": False},
    }
    return PreTrainedTokenizerFast(tokenizer_object=build_backend(**settings[request.param]), **NAMES)


def assert_equal(tokenizer, texts) -> None:
    fast, slow = TextEncoder(tokenizer), TextEncoder(tokenizer, fast=False)
    assert fast._table is not None and slow._table is None
    for text, ids, expected in zip(texts, fast._table.encode(texts), slow.encode(texts), strict=True):
        assert ids.dtype == expected.dtype and ids.tolist() == expected.tolist(), ascii(text)


def characters(codes) -> list[str]:
    return [chr(code) for code in codes if not 0xD800 <= code < 0xE000]


def test_every_character_of_the_basic_plane_between_han_and_latin(tokenizer):
    assert_equal(tokenizer, [f"天{char}a{char}" for char in characters(range(0x10000))])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["{}", "天{}天", "a{}a", "的{}A1", "e\u0301{}\u0301e", "≠{}\u302e,"])
def test_every_character_of_unicode(tokenizer, pattern):
    for start in range(0, 0x110000, 0x10000):
        assert_equal(tokenizer, [pattern.format(char) for char in characters(range(start, start + 0x10000))])


@settings(max_examples=300)
@given(
    texts=st.lists(st.text(st.one_of(st.sampled_from(TRICKY), st.characters(codec="utf-8")), max_size=60), max_size=6)
)
def test_any_strings(tokenizer, texts):
    assert_equal(tokenizer, texts)


def test_words_beyond_the_models_limit_and_empty_texts(tokenizer):
    assert_equal(tokenizer, ["a" * 20 + " " + "a" * 21, "", " \n", "\u200b", "天" * 500, "[MASK]天[UNK]"])
    assert TextEncoder(tokenizer).encode([]) == []


def test_small_chunks_and_a_full_cache_change_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(wordpiece, "_CHUNK_CHARACTERS", 7)
    monkeypatch.setattr(wordpiece, "_MAX_CACHED_CHARACTERS", 5)
    texts = [f"天{word}地 {word}b，" for word in ("a", "ab", "abab", "b1", "aab", "") * 4]
    assert_equal(tokenizer, texts)
    table = TextEncoder(tokenizer)._table
    for text in texts:
        table.encode([text])
        assert table._words._num_characters <= 5 + len(text)


@pytest.mark.parametrize("file", ["wiki_00.zst", "CLUECorpusSmall_bert_sampled.txt.zst"])
def test_real_text(tokenizer, file):
    path = SHARED / "formats" / file
    if not path.is_file():
        pytest.skip(f"shared data is not there: {path.name}")
    with path.open("rb") as stream:
        lines = zstandard.ZstdDecompressor().stream_reader(stream).read(2_000_000).decode(errors="ignore").split("\n")
    assert len(lines) > 50
    assert_equal(tokenizer, [normalize(line) for line in lines])


def test_other_tokenizers_have_no_fast_path(wordpiece, unigram):
    assert is_wordpiece(build_backend())
    assert not is_wordpiece(build_backend(handle_chinese_chars=False))
    assert not is_wordpiece(build_backend(clean_text=False))
    for folder in (wordpiece, unigram):
        assert not is_wordpiece(Tokenizer.from_file(str(folder / "tokenizer.json")))
    added = build_backend()
    added.add_tokens([AddedToken("天地")])
    assert not is_wordpiece(added)
    bare = build_backend()
    bare.normalizer = None
    assert not is_wordpiece(bare)


@pytest.fixture
def broken(monkeypatch):
    """A fast path that is wrong about one character, as a future version of a library might be."""
    encode = WordPieceTable.encode

    def wrong(self, texts):
        return [np.where(ids == 6, np.uint16(5), ids) for ids in encode(self, texts)]

    monkeypatch.setattr(WordPieceTable, "encode", wrong)


def test_a_difference_on_the_sample_is_noticed(tokenizer, broken):
    encoder = TextEncoder(tokenizer)
    assert len(encoder.encode(["天"] * 300)) == 300
    with pytest.raises(UnequalIds, match="gives other ids than the tokenizer for '天地'"):
        encoder.encode(["天"] * 256 + ["天地"])


def test_a_build_that_notices_encodes_again_with_the_tokenizer(tmp_path, tokenizer, broken):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("天天\n天a地\n天b地\n", encoding="utf-8")
    state = {
        "sources": [{"name": "s", "format": "lines", "inputs": [str(tmp_path / "a.txt")]}],
        "tokenizer": str(tmp_path / "tokenizer"),
        "output": str(tmp_path / "out"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corpus.vocabulary.tokenizer._SAMPLE_EVERY", 2)
        with pytest.warns(UserWarning, match=r"gives other ids .*; every unit is encoded by the tokenizer itself"):
            build_corpus(BuildConfig.model_validate_json(json.dumps(state)))
    ids, lengths, _ = read_block(load_manifest(tmp_path / "out"), 0)
    expected = tokenizer(["天天", "天a地", "天b地"], add_special_tokens=False)["input_ids"]
    assert ids.tolist() == [*expected[0], *expected[1], *expected[2]] and lengths.tolist() == [2, 3, 3]
