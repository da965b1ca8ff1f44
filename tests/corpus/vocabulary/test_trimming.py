"""A trimmed vocabulary splits its text like the full one, for both kinds of tokenizer."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer, models, processors

from corpus.shards.manifest import load_manifest
from corpus.shards.shard import count_corpus_pieces
from corpus.vocabulary.tokenizer import load_tokenizer
from corpus.vocabulary.training import build_unigram, build_wordpiece
from corpus.vocabulary.trimming import check_same_pieces, count_pieces, kept_ids, trim_tokenizer

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


def test_bpe_vocabularies_cannot_be_trimmed():
    full = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(ValueError, match="of the kind BPE cannot be trimmed, only Unigram and WordPiece"):
        kept_ids(full, np.zeros(3, np.int64))


def test_nested_post_processors_are_renumbered():
    full = wordpiece()
    state = json.loads(full.to_str())
    state["post_processor"] = {"type": "Sequence", "processors": [state["post_processor"]]}
    full = Tokenizer.from_str(json.dumps(state))
    kept = kept_ids(full, np.zeros(len(WORDPIECE), np.int64))
    assert kept[trim_tokenizer(full, kept).encode("天").ids].tolist() == full.encode("天").ids
