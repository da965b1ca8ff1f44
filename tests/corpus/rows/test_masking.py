"""Masks are a function of seed and position; rates are as stated; specials are never touched; whole words are whole."""

from itertools import islice

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from corpus.permutation import derive_key, mix
from corpus.rows.masking import (
    IGNORED,
    Masker,
    MaskingSettings,
    _choose_words,
    _join_words,
    _of_first_tokens,
    _random,
    _run_lengths,
)
from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from tests.corpus.rows.test_stream import with_word_planes

ROW_TOKENS = 16
WORDS = MaskingSettings(whole_words=True)


@pytest.fixture
def manifest(corpus_folder):
    return load_manifest(corpus_folder)


@pytest.fixture
def worded(manifest, tmp_path):
    return with_word_planes(manifest, tmp_path / "words")


def special_ids(manifest):
    tokenizer = manifest.tokenizer
    return [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id,
            tokenizer.unk_token_id]  # fmt: skip


def random_rows(manifest, num_rows=4000, length=102):
    """Rows of random text in CLS and SEP, the last ten tokens of every second row padding."""
    ids = np.random.default_rng(0).integers(5, manifest.tokenizer.vocab_size, (num_rows, length)).astype(np.uint16)
    ids[:, 0], ids[:, -1] = manifest.tokenizer.cls_token_id, manifest.tokenizer.sep_token_id
    ids[::2, -11] = manifest.tokenizer.sep_token_id
    ids[::2, -10:] = manifest.tokenizer.pad_token_id
    return ids


@pytest.fixture(params=["tokens", "words"])
def stream(request, worded):
    return RowStream(worded, ROW_TOKENS, 17, masking=MaskingSettings(whole_words=request.param == "words"))


def take(stream, count, *arguments):
    return list(islice(stream.batches(*arguments), count))


def test_a_row_has_the_same_mask_at_any_world_size_batch_size_and_resume_point(stream):
    whole = take(stream, 1, 0, 240)[0]
    for position, world_size, num_rows in ((0, 1, 7), (0, 2, 6), (36, 3, 4), (120, 4, 3)):
        for rank in range(world_size):
            for step, batch in enumerate(take(stream, 3, position, num_rows, rank, world_size)):
                first = position + step * num_rows * world_size + rank
                for name, tensor in batch.items():
                    assert torch.equal(tensor, whole[name][first : first + num_rows * world_size : world_size]), name


def test_labels_hold_the_ids_before_masking_and_nothing_else_changes(stream):
    batch = take(stream, 1, 0, stream.rows_per_epoch)[0]
    original = torch.from_numpy(stream.rows(np.arange(stream.rows_per_epoch)).astype(np.int64))
    chosen = batch["labels"] != IGNORED
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["labels"].dtype == batch["input_ids"].dtype == torch.int64
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    assert not torch.equal(batch["input_ids"][chosen], original[chosen])
    special = torch.tensor(special_ids(stream._manifest))
    assert not torch.isin(batch["labels"], special).any()
    if not stream._masker.whole_words:
        assert chosen.any(dim=1)[~torch.isin(original, special).all(dim=1)].all()


def test_another_epoch_and_another_seed_give_another_mask(manifest):
    ids = random_rows(manifest, 50)
    masks = [
        Masker(manifest, MaskingSettings(), seed).mask(ids, np.arange(50) + shift)[1] != IGNORED
        for seed, shift in ((17, 0), (17, 10_000), (18, 0))
    ]
    for other in masks[1:]:
        assert 0.7 < (masks[0] != other).sum() / (2 * masks[0].sum()) < 0.95  # 0.85 where masks are independent


@pytest.mark.parametrize("prob", [0.15, 0.4])
def test_the_rate_is_exact_by_row_and_the_shares_are_80_10_10(manifest, prob):
    ids = random_rows(manifest)
    masked, labels = Masker(manifest, MaskingSettings(prob=prob), 17).mask(ids, np.arange(len(ids)))
    chosen = labels != IGNORED
    assert set(chosen.sum(1)[1::2]) == {round(prob * 100)} and set(chosen.sum(1)[::2]) == {round(prob * 90)}
    became, was, count = masked[chosen], labels[chosen], chosen.sum()
    as_mask = became == manifest.tokenizer.mask_token_id
    assert abs(as_mask.mean() - 0.8) < 5 * (0.16 / count) ** 0.5
    others = became[~as_mask]
    num_text = manifest.tokenizer.vocab_size - 5
    assert not np.isin(others, special_ids(manifest)).any() and set(others) == set(range(5, 5 + num_text))
    assert abs((became == was).mean() - (0.1 + 0.1 / num_text)) < 5 * (0.09 / count) ** 0.5
    by_column = chosen[1::2, 1:-1].mean(0)
    assert abs(by_column - prob).max() < 5 * (prob * (1 - prob) / 2000) ** 0.5, "no place is preferred"


def test_ids_without_a_piece_replace_nothing(manifest):
    missing = [7, manifest.tokenizer.vocab_size - 2]
    tokenizer = manifest.tokenizer.model_copy(update={"ids_without_piece": missing})
    ids = random_rows(manifest, 500)
    ids[np.isin(ids, missing)] = 8
    holed = manifest.model_copy(update={"tokenizer": tokenizer})
    masked, _ = Masker(holed, MaskingSettings(prob=0.5), 17).mask(ids, np.arange(len(ids)))
    assert not np.isin(masked, missing).any()
    whole = Masker(manifest, MaskingSettings(prob=0.5), 17).mask(ids, np.arange(len(ids)))[0]
    assert np.isin(whole, missing).any()


def test_a_row_of_one_token_masks_it_and_a_row_of_none_nothing(manifest):
    tokenizer = manifest.tokenizer
    ids = np.full((2, 8), tokenizer.pad_token_id, dtype=np.uint16)
    ids[:, :3] = tokenizer.cls_token_id, 9, tokenizer.sep_token_id
    ids[1, 1] = tokenizer.unk_token_id
    labels = Masker(manifest, MaskingSettings(), 17).mask(ids, np.arange(2))[1]
    assert np.argwhere(labels != IGNORED).tolist() == [[0, 1]]


def words_of(ids, continues, special):
    """The words of a row, as lists of columns."""
    words = []
    for column, token in enumerate(ids.tolist()):
        if token in special:
            words.append([])
        elif continues[column] and words and words[-1]:
            words[-1].append(column)
        else:
            words.append([column])
    return [word for word in words if word]


def test_whole_words_are_whole_and_capped_as_berts_are(worded):
    """create_masked_lm_predictions of google-research/bert: a word that would exceed the number is left out."""
    ids = random_rows(worded)
    continues = np.random.default_rng(1).random(ids.shape) < 0.6
    labels = Masker(worded, WORDS, 17).mask(ids, np.arange(len(ids)), continues)[1]
    reached = 0
    for row in range(400):
        words = words_of(ids[row], continues[row], special_ids(worded))
        chosen = [word for word in words if any(labels[row, column] != IGNORED for column in word)]
        count = sum(map(len, chosen))
        assert (labels[row] != IGNORED).sum() == count, "a word is masked in part"
        wanted = round(0.15 * sum(map(len, words)))
        assert count <= wanted
        rest = [len(word) for word in words if word not in chosen]
        assert min(rest) > wanted - count, "a word that fits is left out"
        reached += count == wanted
    assert reached > 390


def test_words_are_taken_in_the_order_of_their_ranks():
    never = np.iinfo(np.uint64).max
    ranks = np.array([[5, 5, 5, 1, 9, 9, never, 7], [3, 3, 3, 3, 3, 3, 3, never]], dtype=np.uint64)
    expected = {1: [3], 2: [3, 7], 3: [3, 7], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 7], 6: [0, 1, 2, 3, 7], 7: range(8)}
    for number, columns in expected.items():
        chosen = _choose_words(ranks, np.array([number, number]))
        assert set(np.flatnonzero(chosen[0])) == set(columns) - {6}
        assert chosen[1].sum() == (7 if number == 7 else 0)


def test_old_runs_keep_their_masks(manifest):
    """By the first version: tenths of random bits, of which eight give the mask token and one another piece."""
    ids = random_rows(manifest, 300)
    masker = Masker(manifest, MaskingSettings(prob=0.5), 17)
    chosen, random = masker._choose(ids, np.arange(300), None)
    random = mix(random + derive_key(17, 4))
    others = masker._ordinary[(mix(random) >> np.uint64(1)).astype(np.int64) % len(masker._ordinary)]
    draws, mask_id = random % np.uint64(10), manifest.tokenizer.mask_token_id
    expected = np.where(draws < 8, mask_id, np.where(draws == 8, others, ids[chosen]))
    assert (masker.mask(ids, np.arange(300))[0][chosen] == expected).all()


@pytest.mark.parametrize(("mask_share", "random_share"), [(0.85, 0.0), (1.0, 0.0), (0.0, 1.0), (0.333, 0.25)])
def test_shares_of_what_replaces_tokens_can_be_chosen(manifest, mask_share, random_share):
    ids = random_rows(manifest)
    settings = MaskingSettings(mask_share=mask_share, random_share=random_share)
    masked, labels = Masker(manifest, settings, 17).mask(ids, np.arange(len(ids)))
    chosen = labels != IGNORED
    became, was, count = masked[chosen], labels[chosen], chosen.sum()
    kept = 1 - mask_share - random_share + random_share / (manifest.tokenizer.vocab_size - 5)
    assert abs((became == manifest.tokenizer.mask_token_id).mean() - mask_share) < 5 * (0.25 / count) ** 0.5
    assert abs((became == was).mean() - kept) < 5 * (0.25 / count) ** 0.5


@pytest.mark.parametrize("whole_words", [False, True])
def test_ngrams_are_of_whole_words_and_keep_the_rate(worded, whole_words):
    ids, special = random_rows(worded, 400)[1::2], special_ids(worded)  # 100 tokens each, of which 10 are chosen
    continues = np.random.default_rng(1).random(ids.shape) < 0.3
    num_runs = {}
    for most in (1, 3):
        settings = MaskingSettings(max_ngram=most, whole_words=whole_words, prob=0.1)
        labels = Masker(worded, settings, 17).mask(ids, np.arange(len(ids)), continues)[1]
        num_runs[most] = 0
        for row in range(len(ids)):
            words = words_of(ids[row], continues[row] & whole_words, special)
            states = [{labels[row, column] != IGNORED for column in word} for word in words]
            assert all(len(state) == 1 for state in states), "a word is masked in part"
            num_runs[most] += len("".join("x" if True in state else " " for state in states).split())
        assert 9.9 < (labels != IGNORED).sum(1).mean() <= (labels != IGNORED).sum(1).max() == 10
    assert num_runs[3] < 0.8 * num_runs[1]


def test_runs_of_n_words_are_as_likely_as_one_nth_and_end_at_special_tokens():
    lengths = _run_lengths(_random(derive_key(1), np.arange(2000), 100), 3)
    assert abs(np.bincount(lengths.ravel())[1:] / lengths.size - np.array([6, 3, 2]) / 11).max() < 0.005
    is_text = np.ones((1, 8), dtype=bool)
    continues = _join_words(np.zeros((1, 8), dtype=bool), is_text, np.array([[2, 1, 3, 2, 1, 1, 1, 1]]))
    assert continues[0, 1:].tolist() == [True, False, False, True, True, False, True]
    is_text[0, 4] = False
    random = np.arange(8, dtype=np.uint64)[None]
    assert _of_first_tokens(random, is_text, continues).tolist() == [[0, 0, 2, 3, 4, 5, 6, 6]]


def test_corpora_that_cannot_be_masked_are_refused(manifest):
    with pytest.raises(ValueError, match="masking whole words needs word planes; build the corpus with whole_words"):
        RowStream(manifest, ROW_TOKENS, 17, masking=WORDS)
    tokenizer = manifest.tokenizer.model_copy(update={"mask_token_id": None})
    with pytest.raises(ValueError, match=r"masking needs a mask token, and the tokenizer .* has none"):
        RowStream(manifest.model_copy(update={"tokenizer": tokenizer}), ROW_TOKENS, 17, masking=MaskingSettings())
    with pytest.raises(ValidationError, match="prob\n  Input should be less than 1"):
        MaskingSettings(prob=1.0)
    with pytest.raises(ValidationError, match="max_ngram\n  Input should be less than or equal to 10"):
        MaskingSettings(max_ngram=11)
    shares = r"mask_share \(0.95\) and random_share \(0.1\) are shares of the same tokens: together at most 1"
    with pytest.raises(ValidationError, match=shares):
        MaskingSettings(mask_share=0.95)
