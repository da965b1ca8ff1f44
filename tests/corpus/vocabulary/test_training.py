import itertools

import pytest
from transformers import AutoTokenizer

from corpus.vocabulary.coverage import measure_coverage
from corpus.vocabulary.training import (
    BERT_SPECIAL,
    build_unigram,
    build_wordpiece,
    save_backend,
    train_unigram,
    train_wordpiece,
)
from corpus.vocabulary.wordpiece import is_wordpiece

HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
# The characters of a text that follows a law, so that some sequences are frequent
TEXTS = [
    " ".join(HAN[(i * 7 + j * j) % 24] + HAN[(i * 7 + j * j + 1) % 24] for j in range(9)) + "，lower lowest newest 2024"
    for i in range(120)
]


def pieces_of(tokenizer) -> list[str]:
    return [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]


def test_wordpiece_holds_special_tokens_characters_and_whole_words_by_frequency():
    tokenizer = train_wordpiece(TEXTS, 73, 1.0, lowercase=True)
    pieces = pieces_of(tokenizer)
    assert len(pieces) == len(set(pieces)) == 73 and tuple(pieces[:5]) == BERT_SPECIAL and is_wordpiece(tokenizer)
    assert {*HAN, "，", "l", "##e", "lower", "lowest", "newest", "2024"} <= set(pieces)
    assert tokenizer.encode("LOWER天地").tokens == ["[CLS]", "lower", "天", "地", "[SEP]"]
    # Begins a word nowhere in the text as more than a letter
    assert "west" not in pieces and "est" not in pieces


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_the_same_text_in_any_order_or_run_gives_the_same_vocabulary(kind):
    def train(texts):
        return train_wordpiece(texts, 70, 1.0, True) if kind == "wordpiece" else train_unigram(texts, 60, 1.0)

    first = train(TEXTS).to_str()
    assert train(iter(TEXTS)).to_str() == first
    if kind == "wordpiece":
        assert train(TEXTS[::-1]).to_str() == first


def test_rare_characters_are_left_out_by_coverage():
    texts = ["天" * 98, "地", "玄"]
    assert {"天", "地", "玄"} <= set(pieces_of(train_wordpiece(texts, 8, 1.0, True)))
    # 97 % is less than one character makes up; of two as frequent ones neither is left out
    assert "地" not in pieces_of(quiet_wordpiece(texts, 0.97))
    assert {"地", "玄"} <= set(pieces_of(quiet_wordpiece(texts, 0.985)))


def quiet_wordpiece(texts, coverage):
    with pytest.warns(UserWarning, match=r"the text gives only \d pieces of the 20 asked for"):
        return train_wordpiece(texts, 20, coverage, True)


def test_a_vocabulary_too_small_or_without_text_is_refused():
    with pytest.raises(
        ValueError, match=r"\d+ characters and \d+ continuations \(##\) cover 100\.0000% of the text, too"
    ):
        train_wordpiece(TEXTS, 30, 1.0, True)
    with pytest.raises(ValueError, match="the text has no words for the tokenizer"):
        train_wordpiece(["\u0301", " "], 30, 1.0, True)
    with pytest.raises(ValueError, match=r"^\d+ characters cover the text, too many for \d+ pieces beside the special"):
        train_unigram(TEXTS, 20, 1.0)


def test_unigram_has_the_layout_of_xlm_r():
    tokenizer = train_unigram(TEXTS, 60, 1.0)
    pieces = pieces_of(tokenizer)
    assert pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"] and pieces[-1] == "<mask>" and len(pieces) == 60
    assert set(HAN) <= set(pieces)
    ids = tokenizer.encode("天地 lowest").ids
    assert ids[0] == 0 and ids[-1] == 2 and 3 not in ids and tokenizer.decode(ids) == "天地 lowest"


def test_unigram_splits_width_spaces_and_pairs_as_xlm_r():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "天", "地", "人", "▁天地", "ab", "<mask>"]
    tokenizer = build_unigram(pieces, [0, 0, 0, 0, -2, -5, -5, -5, -7, -8, 0])
    assert tokenizer.encode("天地人").tokens == ["<s>", "▁天地", "人", "</s>"]
    assert tokenizer.encode("人", "天").tokens == ["<s>", "▁", "人", "</s>", "</s>", "▁", "天", "</s>"]
    assert tokenizer.encode("人   人").tokens == tokenizer.encode("人 人").tokens == tokenizer.encode("人　人").tokens
    assert tokenizer.encode("ａｂ").tokens == ["<s>", "▁", "ab", "</s>"]
    assert tokenizer.encode("人龘").tokens[-2] == "龘" and tokenizer.encode("人龘").ids[-2] == 3
    assert tokenizer.decode(tokenizer.encode("天地人 ab").ids) == "天地人 ab"


def test_long_lines_are_split_not_skipped():
    """SentencePiece drops sentences beyond a length without a word."""
    tokenizer = train_unigram(["".join(itertools.islice(itertools.cycle(HAN), 20_000))], 34, 1.0)
    assert set(HAN) <= set(pieces_of(tokenizer))


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_saved_folders_load_with_autotokenizer(tmp_path, kind):
    trained = train_wordpiece(TEXTS, 70, 1.0, True) if kind == "wordpiece" else train_unigram(TEXTS, 60, 1.0)
    save_backend(trained, 128, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.is_fast and tokenizer.model_max_length == 128
    names = ("cls", "sep", "pad", "unk", "mask")
    ids = [getattr(tokenizer, f"{name}_token_id") for name in names]
    assert ids == ([2, 3, 0, 1, 4] if kind == "wordpiece" else [0, 2, 1, 3, 59])
    text = "天 地 lowest" if kind == "wordpiece" else "天地 lowest"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert not any(path.suffix == ".tsv" for path in tmp_path.iterdir())


def test_coverage_counts_unknown_spellings(tmp_path):
    backend = build_wordpiece([*BERT_SPECIAL, "天", "地", "a", "##b"], lowercase=True)
    tokenizer = save_backend(backend, 128, tmp_path)
    coverage = measure_coverage(tokenizer, ["天“地”", "“天”abc", "[MASK]"])
    # [ and ] are unknown as well as mask: text spells no special token
    assert coverage.num_characters == 16 and coverage.num_tokens == 11 and coverage.num_unknown == 8
    assert coverage.unknown == {"“": 2, "”": 2, "abc": 1, "[": 1, "MASK": 1, "]": 1}
    assert "0.688 tokens a character, 500.000 unknown in 1,000 characters" in str(coverage)
    assert "unknown most often: '“' (U+201C) 2, '”' (U+201D) 2" in str(coverage)
    assert "unknown most often: none" in str(measure_coverage(tokenizer, ["天"]))
