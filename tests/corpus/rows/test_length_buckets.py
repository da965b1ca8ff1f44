"""Rows sorted by length: the same rows as without, less padding, whatever the ranks and wherever a run goes on."""

from itertools import islice

import numpy as np
import pytest
import torch

from corpus.rows.length_buckets import LengthBuckets
from corpus.rows.masking import MaskingSettings
from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest

L, STEPS, ROWS = 32, 5, 12  # of a row, of a window, of a step


def build(corpus_folder, kind="texts", bucket_steps=STEPS, **more):
    return RowStream(
        load_manifest(corpus_folder), L, 17, kind=kind, rows_per_step=ROWS, bucket_steps=bucket_steps, **more
    )


def steps(stream, count, position=0, micro_rows=ROWS, world_size=1, name="input_ids"):
    """The rows of each step [count, R, L], in the order of ranks and micro-batches."""
    share = []
    for rank in range(world_size):
        batches = stream.batches(position, micro_rows, rank, world_size)
        read = islice(batches, count * ROWS // world_size // micro_rows)
        share.append(torch.cat([batch[name] for batch in read]).view(count, ROWS // world_size, -1))
        batches.close()
    return torch.stack(share, 2).flatten(1, 2)


def padding(rows):
    """Share of padding where each step is cut to its longest row."""
    real = (rows != 0).sum(-1).double()
    return float(1 - real.sum() / (real.max(1).values * ROWS).sum())


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_a_window_has_the_rows_that_it_has_without_sorting_and_less_padding(corpus_folder, kind):
    plain, sorted_rows = build(corpus_folder, kind, 1), build(corpus_folder, kind)
    before, after = steps(plain, 4 * STEPS), steps(sorted_rows, 4 * STEPS)
    for window in range(4):
        same = slice(window * STEPS, (window + 1) * STEPS)
        assert sorted(before[same].flatten(0, 1).tolist()) == sorted(after[same].flatten(0, 1).tolist())
    assert padding(after) < 0.6 * padding(before)


def test_steps_come_in_random_order_and_differ_between_windows():
    lengths = np.random.default_rng(0).integers(1, 100, 8 * 4 * 50)
    seen = [LengthBuckets(4, 8, seed, lambda p: lengths[p]).sources(np.arange(8 * 4 * 50)) for seed in (1, 1, 2)]
    means = lengths[seen[0]].reshape(50, 8, 4).mean(-1)
    ranks = means.argsort(1).argsort(1)
    assert (seen[0] == seen[1]).all() and not (seen[0] == seen[2]).all()
    assert (ranks.mean(0) > 2).all() and (ranks.mean(0) < 5).all(), "no place in the window has always short rows"
    assert np.array_equal(np.sort(seen[0]), np.arange(8 * 4 * 50))


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("micro_rows", [1, 3])
def test_ranks_show_the_steps_of_one_rank(corpus_folder, world_size, micro_rows):
    stream = build(corpus_folder)
    assert torch.equal(steps(stream, 12), steps(stream, 12, micro_rows=micro_rows, world_size=world_size))


@pytest.mark.parametrize("step", [1, STEPS, 7])
def test_a_run_goes_on_with_the_same_rows_and_masks_in_a_window_and_across_epochs(corpus_folder, wordpiece, step):
    stream = build(corpus_folder, masking=MaskingSettings())
    start = stream.rows_per_epoch // ROWS - 3
    for name in ("input_ids", "labels"):
        whole = steps(stream, step + 6, start * ROWS, name=name)
        assert torch.equal(whole[step:], steps(stream, 6, (start + step) * ROWS, world_size=2, micro_rows=2, name=name))


def test_near_equal_lengths_gain_no_padding():
    """Small steps of many ranks, where sorting by other schemes adds padding."""
    lengths = np.random.default_rng(0).integers(1680, 1920, 16 * 64 * 20)
    sources = LengthBuckets(16, 64, 0, lambda p: lengths[p]).sources(np.arange(len(lengths)))
    longest = [one.reshape(-1, 2).max(1).sum() for one in (lengths[sources], lengths)]  # of micro-batches of two rows
    assert longest[0] < longest[1]


def test_a_prompt_stands_after_the_first_token_of_every_text_and_is_never_masked(corpus_folder):
    prompt = [11, 12, 13]
    plain = RowStream(load_manifest(corpus_folder), L - 3, 17, kind="texts", masking=MaskingSettings())
    stream = RowStream(load_manifest(corpus_folder), L, 17, kind="texts", masking=MaskingSettings(), prompt=prompt)
    before, after = (next(one.batches(0, 8)) for one in (plain, stream))
    assert after["input_ids"].shape == (8, L) and after["input_ids"][:, 1:4].tolist() == [prompt] * 8
    assert (after["labels"][:, 1:4] == -100).all() and (after["attention_mask"][:, 1:4] == 1).all()
    for name, values in before.items():
        assert torch.equal(torch.cat([after[name][:, :1], after[name][:, 4:]], 1), values)


def test_positions_go_on_after_a_prompt(corpus_folder):
    stream = RowStream(load_manifest(corpus_folder), L, 17, kind="texts", documents_apart=True, prompt=[11, 12])
    batch = next(stream.batches(0, 8))
    real = batch["attention_mask"].bool()
    assert torch.equal(batch["position_ids"], torch.arange(L).expand(8, -1) * real)
    assert torch.equal(batch["document_ids"], torch.where(real, 0, -1))


@pytest.mark.parametrize("bucket_steps", [1, STEPS])
def test_the_rows_that_a_run_shows_are_known(corpus_folder, bucket_steps):
    stream = build(corpus_folder, bucket_steps=bucket_steps, gives_places=True)
    for num_rows in (2 * ROWS, 7 * ROWS, stream.rows_per_epoch + ROWS):
        shown = stream.shown(num_rows)
        read = islice(stream.batches(0, ROWS), num_rows // ROWS)
        came = {place for one in read for place in zip(one["block"].tolist(), one["row"].tolist(), strict=True)}
        known = {(block, int(row)) for block, rows in shown.items() for row in np.flatnonzero(rows)}
        assert came <= known and len(known) - len(came) < (ROWS * STEPS if bucket_steps > 1 else 1)


@pytest.mark.parametrize("num_tokens", [25, 32, 40])
def test_a_prompt_that_fills_the_row_is_refused(corpus_folder, num_tokens):
    with pytest.raises(ValueError, match=f"row_tokens is {L - num_tokens}, but must be at least 8"):
        RowStream(load_manifest(corpus_folder), L, 17, kind="texts", prompt=[11] * num_tokens)


def test_batches_say_where_their_rows_lie(corpus_folder):
    stream = build(corpus_folder, gives_places=True)
    batch = next(stream.batches(0, ROWS))
    rows = stream.rows_of(np.unique(batch["block"]).tolist())
    found = dict(zip(np.unique(batch["block"]).tolist(), rows, strict=True))
    for block, row, ids in zip(batch["block"].tolist(), batch["row"].tolist(), batch["input_ids"], strict=True):
        assert found[block]["input_ids"][row].tolist() == ids.tolist()
