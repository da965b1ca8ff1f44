"""The simulation itself, on a small corpus: as many ranks as a test can afford, nothing else made smaller."""

import numpy as np
import pytest

from bench import ranks
from bench.scale import read_factor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    ranks.build_corpus(folder, 600)
    return folder


@pytest.mark.parametrize("row_tokens", [128, 512])
def test_ranks_share_an_epoch_and_its_bytes(folder, row_tokens):
    manifest, _ = ranks.read_manifest(folder)
    epoch = ranks.Epoch(manifest, row_tokens)
    for num_ranks in (1, 8, 64, 256):
        num_rows, num_bytes = epoch.walk(num_ranks)
        assert num_rows.sum() == epoch.order.rows_per_epoch and np.ptp(num_rows) <= 1
        assert epoch.num_bytes <= num_bytes.sum()
        share = epoch.num_bytes / num_ranks
        assert num_bytes.max() <= share + 3 * 145_000  # a block that another rank reads too, and one more, at the ends


def test_ranks_beyond_the_lanes_share_their_blocks(folder):
    epoch = ranks.Epoch(ranks.read_manifest(folder)[0], 512)
    lanes = epoch.order.num_lanes
    together, alone = epoch.walk(4 * lanes)[1], epoch.walk(lanes)[1]
    assert together.max() <= alone.max() and together.sum() <= 4 * alone.sum()


@pytest.mark.parametrize("num_ranks", [3, 24])
def test_lanes_that_the_ranks_divide_give_each_its_share(folder, num_ranks):
    manifest = ranks.read_manifest(folder)[0]
    num_rows, num_bytes = ranks.Epoch(manifest, 512, num_lanes=num_ranks).walk(num_ranks)
    assert np.ptp(num_rows) <= 1
    assert num_bytes.max() <= ranks.Epoch(manifest, 512).num_bytes / num_ranks + 3 * 145_000


@pytest.mark.parametrize("num_ranks", [3, 6, 24, 512])
def test_the_arithmetic_of_reading_holds(folder, num_ranks):
    """Numbers of ranks that are no powers of two read more: bench/scale.py has the formula."""
    epoch = ranks.Epoch(ranks.read_manifest(folder)[0], 512)
    _, num_bytes = epoch.walk(num_ranks)
    assert num_bytes.sum() / epoch.num_bytes == pytest.approx(read_factor(num_ranks), rel=0.5)
    assert num_bytes.sum() >= 0.99 * read_factor(num_ranks) * epoch.num_bytes


def test_a_row_that_comes_twice_is_noticed(folder, monkeypatch):
    epoch = ranks.Epoch(ranks.read_manifest(folder)[0], 512)
    locate = epoch.order.locate
    monkeypatch.setattr(epoch.order, "locate", lambda positions: locate(np.maximum(positions, 1)))
    with pytest.raises(ValueError, match="2 ranks: 2 rows came too often or too seldom, the first "):
        epoch.walk(2)


def test_changes_of_the_number_of_ranks_go_on_in_one_sequence(folder):
    manifest, _ = ranks.read_manifest(folder)
    assert ranks.check_changes(manifest, 128, [3, 8, 4], most_ranks=8) == 15 * 2 * ranks.NUM_BATCHES


def test_a_started_rank_reads_little(folder):
    costs = ranks.start_rank(folder, 512, 64)
    assert 0 < costs["first_bytes"] < 60 * 145_000
