"""Prefetching of batches in a thread, with a time limit for their source.

A RowStream already reads thousands of rows ahead in its own thread. This second thread lets training give up on any
source that hangs.
"""

import queue
import threading
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any, TypeVar

_NUM_AHEAD = 2
_CLOSE_SECONDS = 5.0  # for closing the source; one that hangs is abandoned in a daemon thread

Item = TypeVar("Item")


def prefetch(source: Generator[Item, None, None], timeout_seconds: float) -> Generator[Item, None, None]:
    """Yield the items of `source`, which runs and is closed in a thread. Exceptions of `source` are raised here.

    Raise TimeoutError if an item does not come within `timeout_seconds`.
    """
    ready: queue.Queue[Any] = queue.Queue(_NUM_AHEAD)
    stop, end = threading.Event(), object()

    def offer(item: object) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def produce() -> None:
        try:
            with closing(source):
                for item in source:
                    offer(item)
                    if stop.is_set():
                        return
            offer(end)
        except BaseException as error:  # of any kind: the consumer raises it
            offer(error)

    thread = threading.Thread(target=produce, name="batch-prefetch", daemon=True)
    thread.start()
    try:
        while (item := _get(ready, timeout_seconds)) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(_CLOSE_SECONDS)


def _get(ready: queue.Queue[Any], timeout_seconds: float) -> Any:
    try:
        return ready.get(timeout=timeout_seconds)
    except queue.Empty:
        raise TimeoutError(f"nothing came within {timeout_seconds} s") from None
