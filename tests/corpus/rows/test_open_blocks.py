import numpy as np
import pytest

from corpus.rows.open_blocks import OpenBlocks

TABLE = np.array([5, 6, 4, 5, 29, 6, 5, 1])


def contents(block: int) -> np.ndarray:
    return (1000 * block + 10 * np.arange(TABLE[block])[:, None] + np.arange(3)).astype(np.uint16)


class Reads(list):
    """A reader that remembers what it read."""

    def __call__(self, blocks):
        for block in blocks:
            self.append(block)
            yield contents(block), contents(block) % 3 == 0


def open_blocks(reads, num_pages=100, max_bytes=1 << 20) -> OpenBlocks:
    return OpenBlocks(reads, TABLE, 3, (np.dtype(np.uint16), np.dtype(bool)), num_pages, max_bytes)


@pytest.mark.parametrize("num_pages", [1, 2, 3, 5, 7, 100])
def test_rows_are_right_in_a_cache_of_any_size(num_pages):
    """Block 4 needs several pages: more than there are, in the first cases."""
    blocks_open = open_blocks(Reads(), num_pages)
    random = np.random.default_rng(1)
    for _ in range(60):
        blocks = random.integers(0, len(TABLE), 20)
        rows = random.integers(0, TABLE[blocks])
        ids, plane = blocks_open.take(blocks, rows)
        expected = np.stack([contents(block)[row] for block, row in zip(blocks, rows, strict=True)])
        assert (ids == expected).all() and (plane == (expected % 3 == 0)).all()
    assert blocks_open.num_slots <= num_pages


def test_a_cached_block_is_not_read_again():
    reads = Reads()
    blocks_open = open_blocks(reads)
    for _ in range(3):
        for block, count in enumerate(TABLE):
            blocks_open.take(np.full(count, block), np.arange(count))
    assert reads == list(range(len(TABLE)))


def test_the_least_recently_used_block_makes_room():
    reads = Reads()
    blocks_open = open_blocks(reads, num_pages=3)
    for block in (0, 1, 2, 0, 3, 0, 2, 1):
        blocks_open.take(np.array([block]), np.array([0]))
    assert reads == [0, 1, 2, 3, 1]


def test_the_cache_is_bounded_in_bytes():
    blocks_open = open_blocks(Reads(), max_bytes=2 * 7 * 3 * 3)
    assert blocks_open.num_slots == 2


def test_a_failed_read_loses_nothing():
    class Failing(Reads):
        def __call__(self, blocks):
            for planes in super().__call__(blocks):
                if self[-1] == 2:
                    raise ValueError("lost")
                yield planes

    blocks_open = open_blocks(Failing(), num_pages=3)
    blocks_open.take(np.array([0, 1]), np.array([0, 0]))
    with pytest.raises(ValueError, match="lost"):
        blocks_open.take(np.array([2, 3]), np.array([0, 0]))
    ids, _ = blocks_open.take(np.array([0, 1, 3]), np.array([1, 2, 3]))
    assert ids[:, 0].tolist() == [10, 1020, 3030]
