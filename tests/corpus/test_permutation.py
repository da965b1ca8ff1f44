import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corpus.permutation import derive_key, mix, permutation, permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permute_is_one_to_one(size, key):
    permuted = permute(np.arange(size), np.full(size, size), np.full(size, key, dtype=np.uint64))
    assert sorted(permuted.tolist()) == list(range(size))


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=20))
def test_each_element_is_permuted_by_its_own_size_and_key(elements):
    sizes = np.array([size for size, _ in elements])
    keys = np.array([key for _, key in elements], dtype=np.uint64)
    indices = sizes // 2
    together = permute(indices, sizes, keys)
    alone = [int(permute(indices[[i]], sizes[[i]], keys[[i]])[0]) for i in range(len(elements))]
    assert together.tolist() == alone


def test_permute_spreads_evenly():
    """Where the first and the last element of 20 go under 40,000 keys: each place about equally often."""
    keys = mix(np.arange(40_000, dtype=np.uint64))
    for index in (0, 19):
        counts = np.bincount(permute(np.full(40_000, index), np.full(40_000, 20), keys), minlength=20)
        assert counts.min() > 1800 and counts.max() < 2200  # 2000 expected, a standard deviation of 44
    neighbours = permute(np.full(40_000, 4), np.full(40_000, 20), keys)
    others = permute(np.full(40_000, 5), np.full(40_000, 20), keys)
    assert abs(np.mean(others - neighbours == 1) - 1 / 20) < 0.01


def test_keys_differ():
    assert len({int(derive_key(1, seed, epoch)) for seed in range(10) for epoch in range(10)}) == 100
    assert permutation(50, 1, 2).tolist() != permutation(50, 2, 1).tolist()
    assert sorted(permutation(50, 1, 2)) == list(range(50))
