"""Batches prepared in a thread while the last ones are used."""

import atexit
import queue
import threading
from collections.abc import Generator, Iterator

import torch

Batch = dict[str, torch.Tensor]


def read_ahead(reads: Iterator[list[Batch]]) -> Generator[Batch, None, None]:
    """Yield the batches of reads one by one, while a daemon thread prepares the next read."""
    ready: queue.Queue = queue.Queue(1)
    stop = threading.Event()

    def offer(item: object) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for read in reads:
                offer(read)
                if stop.is_set():
                    return
        except BaseException as error:  # of any kind: the consumer raises it
            offer(error)

    thread = threading.Thread(target=produce, name="row-prefetch", daemon=True)

    def leave() -> None:
        stop.set()
        thread.join()

    thread.start()
    atexit.register(leave)  # a thread that makes tensors while Python ends can abort the process
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield from item
    finally:
        atexit.unregister(leave)
        leave()
