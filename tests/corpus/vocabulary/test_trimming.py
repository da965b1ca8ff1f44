"""A trimmed vocabulary splits its text like the full one, for every kind of tokenizer."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from corpus.shards.manifest import load_manifest
from corpus.shards.shard import count_corpus_pieces
from corpus.vocabulary.pieces import num_ids
from corpus.vocabulary.tokenizer import load_tokenizer
from corpus.vocabulary.training import build_unigram, build_wordpiece
from corpus.vocabulary.trimming import check_same_pieces, count_pieces, kept_ids, trim_tokenizer
from tests.corpus.tiny_bpe import byte_level, falling_back

UNIGRAM = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "天",
    "地",
    "人",
    "天地",
    "▁天地",
    "地人",
    "ab",
    "a",
    "b",
    "xyz",
    "<mask>",
]
SCORES = [0, 0, 0, 0, -2, -5, -5, -5, -6, -7, -6.5, -8, -12.0, -9, -20, 0]
# The special tokens stand in the middle, as in Google's vocabulary
WORDPIECE = ["[PAD]", "ab", "天", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "地", "a", "##b", "b", "##ba", "人"]


def unigram() -> Tokenizer:
    return build_unigram(UNIGRAM, SCORES)


def wordpiece() -> Tokenizer:
    return build_wordpiece(WORDPIECE, lowercase=True)


def bert_processing() -> Tokenizer:
    tokenizer = wordpiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 5), ("[CLS]", 4))
    return tokenizer


def dropped(full: Tokenizer, texts: list[str]) -> set[str]:
    kept = set(kept_ids(full, count_pieces(full, texts)).tolist())
    return {full.id_to_token(index) for index in range(full.get_vocab_size()) if index not in kept}


def test_only_used_pieces_special_tokens_and_single_characters_are_kept():
    counts = count_pieces(unigram(), ["天地人", "天地"])
    assert counts[UNIGRAM.index("▁天地")] == 2 and counts[UNIGRAM.index("人")] == 1 and counts.sum() == 3
    # xyz has the lowest score, from which that of unknown characters is counted
    assert dropped(unigram(), ["天地人", "天地"]) == {"天地", "地人", "ab"}
    assert dropped(wordpiece(), ["天a"]) == {"ab", "##ba"}
    assert dropped(wordpiece(), ["天 abba"]) == set()


@pytest.mark.parametrize("build", [unigram, wordpiece, bert_processing])
def test_the_trimmed_vocabulary_splits_the_same_under_new_ids(build: Callable[[], Tokenizer]):
    full = build()
    kept = kept_ids(full, count_pieces(full, ["天地人"]))
    small = trim_tokenizer(full, kept)
    assert small.get_vocab_size() == len(kept) < full.get_vocab_size()
    texts = ["天地人", "人龘 人", "b b", "人"]
    check_same_pieces(full, small, texts)
    for text in texts:
        # With special tokens, so the ends were renumbered too
        assert kept[small.encode(text, "天").ids].tolist() == full.encode(text, "天").ids
    with pytest.raises(ValueError, match="the trimmed vocabulary splits a text differently: 'ab'"):
        check_same_pieces(full, small, ["天地人", "ab"])


def test_no_single_character_becomes_unknown():
    for full in (unigram(), wordpiece()):
        small = trim_tokenizer(full, kept_ids(full, np.zeros(full.get_vocab_size(), np.int64)))
        assert small.token_to_id("ab") is None
        assert not {"<unk>", "[UNK]"} & set(small.encode("天 地 人 a b").tokens)


def test_truncation_and_padding_are_switched_off_for_counting():
    full = unigram()
    full.enable_truncation(2)
    full.enable_padding(length=4, pad_id=1, pad_token="<pad>")
    counts = count_pieces(full, ["天地人人人ab"])
    assert counts[UNIGRAM.index("人")] == 3 and counts[UNIGRAM.index("<pad>")] == 0
    small = trim_tokenizer(full, kept_ids(full, count_pieces(full, ["天地人"])))
    assert small.truncation == full.truncation and small.padding == full.padding
    with pytest.raises(ValueError, match="the trimmed vocabulary splits a text differently: '天地人人人ab'"):
        check_same_pieces(full, small, ["天地人人人ab"])


def test_a_corpus_has_the_counts_of_its_texts(corpus_folder, documents, wordpiece):
    backend = load_tokenizer(str(wordpiece)).backend_tokenizer
    assert np.array_equal(count_corpus_pieces(load_manifest(corpus_folder)), count_pieces(backend, documents))


def test_other_kinds_are_refused():
    counts = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="of the kind WordLevel cannot be trimmed, only Unigram, WordPiece and BPE"):
        kept_ids(Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a")), counts)
    suffixed = models.BPE({"a": 0, "b</w>": 1, "ab</w>": 2}, [("a", "b</w>")], end_of_word_suffix="</w>")
    with pytest.raises(ValueError, match="with a continuing_subword_prefix or end_of_word_suffix cannot be trimmed"):
        kept_ids(Tokenizer(suffixed), counts)


@pytest.mark.parametrize("build", [byte_level, falling_back])
@settings(max_examples=60)
@given(text=st.text("天地玄黄宇宙abcde 1,\n𠮷é", max_size=14), seen=st.lists(st.text("天地玄黄abcd ", max_size=6)))
def test_text_of_kept_pieces_is_split_the_same_and_all_text_comes_back(build: Callable[[], Tokenizer], text, seen):
    full = build()
    kept = kept_ids(full, count_pieces(full, seen)) if seen else kept_ids(full, np.zeros(num_ids(full), np.int64))
    small = trim_tokenizer(full, kept)
    before, after = full.encode(text), small.encode(text)
    if set(before.ids) <= set(kept.tolist()):
        assert kept[after.ids].tolist() == before.ids
    assert small.decode(after.ids) == full.decode(before.ids)
    assert "<unk>" not in after.tokens


def test_what_a_piece_is_merged_from_is_kept():
    full = falling_back()
    kept = {full.id_to_token(index) for index in kept_ids(full, count_pieces(full, ["abcd天地玄"])).tolist()}
    # abcd is merged from ab and cd, as these come before abc; abc and bc would give it too
    assert {"a", "b", "c", "d", "ab", "cd", "abcd", "天地玄", "天地", "玄"} <= kept
    assert not {"abc", "bc", "地玄", "黄", "e", "<unused0>", "<unused1>"} & kept
    assert {f"<0x{byte:02X}>" for byte in range(256)} | {"<pad>", "<bos>", "<eos>", "<unk>", "<mask>"} <= kept


def test_an_unused_token_that_is_used_is_kept():
    full = falling_back()
    kept = kept_ids(full, count_pieces(full, ["a<unused1>"]))
    small = trim_tokenizer(full, kept)
    assert small.token_to_id("<unused1>") is not None and small.token_to_id("<unused0>") is None
    check_same_pieces(full, small, ["a<unused1>"])


def test_pieces_taken_whole_stay():
    """Llama's tokenizers take a word that is a piece as it is, though no merges lead to it."""
    vocabulary = {piece: index for index, piece in enumerate([*"abcd", "ab", "dcba"])}
    full = Tokenizer(models.BPE(vocabulary, [("a", "b")], ignore_merges=True))
    full.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    small = trim_tokenizer(full, kept_ids(full, count_pieces(full, ["dcba"])))
    assert sorted(small.get_vocab()) == ["a", "b", "c", "d", "dcba"]
    check_same_pieces(full, small, ["dcba c"])


def test_an_added_token_that_would_get_another_id_is_refused():
    """The library numbers added tokens that are no pieces by the number of pieces, which ids may exceed."""
    full = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 5}, []))
    full.add_special_tokens(["<x>"])
    with pytest.raises(ValueError, match="the added token '<x>' gets the id 3 instead of 2"):
        trim_tokenizer(full, kept_ids(full, np.zeros(6, np.int64)))


def test_nested_post_processors_are_renumbered():
    full = wordpiece()
    state = json.loads(full.to_str())
    state["post_processor"] = {"type": "Sequence", "processors": [state["post_processor"]]}
    full = Tokenizer.from_str(json.dumps(state))
    kept = kept_ids(full, np.zeros(len(WORDPIECE), np.int64))
    assert kept[trim_tokenizer(full, kept).encode("天").ids].tolist() == full.encode("天").ids
