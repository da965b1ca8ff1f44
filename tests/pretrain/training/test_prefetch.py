"""A prefetched source yields the same items and errors, and never blocks its consumer forever."""

import threading
import time

import pytest

from pretrain.training.prefetch import prefetch


def test_items_and_errors_come_in_their_order():
    def source():
        yield from range(5)
        raise ValueError("block 7")

    items = prefetch(source(), 5)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="block 7"):
        next(items)
    assert list(prefetch((number for number in range(3)), 5)) == [0, 1, 2]


def test_closing_closes_the_source_and_reads_only_a_little_ahead():
    read, closed = [], threading.Event()

    def source():
        try:
            for number in range(1000):
                read.append(number)
                yield number
        finally:
            closed.set()

    items = prefetch(source(), 5)
    assert next(items) == 0
    items.close()
    assert closed.is_set() and len(read) <= 4


def test_a_source_that_hangs_is_given_up():
    hangs = threading.Event()

    def source():
        yield 1
        hangs.wait(60)

    items = prefetch(source(), 0.3)
    assert next(items) == 1
    started = time.monotonic()
    hangs_no_longer = threading.Timer(1, hangs.set)
    hangs_no_longer.start()
    with pytest.raises(TimeoutError, match=r"nothing came within 0.3 s"):
        next(items)
    assert time.monotonic() - started < 30
