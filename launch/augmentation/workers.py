"""The processes that augment shards. Each loads the model once and computes on one thread, or on one GPU.

With one thread each, numbers are rounded in the same way however many there are.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import lru_cache
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from corpus.vocabulary.word_planes import load_segmenter
from launch.augmentation.work_folder import SHARD_RECORDS, WorkFolder
from launch.job.messages import mute_transformers
from pretrain.device import chosen_device
from pretrain.progress import Progress
from tasks.augmentation.augmenter import Augmenter, build_augmenter
from tasks.augmentation.texts import is_ignored
from tasks.config import TaskConfig
from tasks.kinds.record_files import Record, read_records

_POLL_SECONDS = 0.2


def read_numbered(task: TaskConfig) -> list[tuple[int, Record]]:
    """Return the training records that the task does not ignore, with their numbers in the file, from 0."""
    records = enumerate(read_records(Path(task.train), task))
    return [(number, record) for number, record in records if not is_ignored(record, task)]


def default_workers() -> int:
    """Return one process for each GPU, or for each core that may be used."""
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def run_shards(
    folder: WorkFolder, shards: Sequence[int], num_workers: int, num_done: int, stop_requested: Callable[[], bool]
) -> bool:
    """Augment shards of records; return whether all are done: not if asked to stop, when those begun are finished.

    Raise ValueError for what a worker cannot use, or if one is killed; finished shards are kept.
    """
    with Progress("augmenting", num_done + len(shards), "shards", initial=num_done) as progress:
        if num_workers == 1:
            return _run_here(folder, shards, progress, stop_requested)
        # The fork server has no threads, whose locks a fork would never release, and imports once what takes seconds
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        numbers: Queue[int] = context.Queue()
        for number in range(num_workers):
            numbers.put(number)
        pool = ProcessPoolExecutor(num_workers, context, _begin_worker, (numbers,))
        try:
            running = {pool.submit(augment_shard, folder, index) for index in shards}
            while running and not stop_requested():
                done, running = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
                for one in done:
                    one.result()
                progress.update(len(done))
        except BrokenProcessPool as error:
            raise ValueError("a worker was killed, probably for lack of memory; use fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)
    return not any(not folder.shard(index).is_file() for index in shards)


def _run_here(
    folder: WorkFolder, shards: Sequence[int], progress: Progress, stop_requested: Callable[[], bool]
) -> bool:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _loaded.cache_clear()  # the folder may have been begun again since
    try:
        for index in shards:
            if stop_requested():
                return False
            augment_shard(folder, index)
            progress.update()
    finally:
        torch.set_num_threads(num_threads)
    return True


def augment_shard(folder: WorkFolder, index: int) -> None:
    """Augment a shard of records and write its file."""
    augmenter, records = _loaded(folder)
    folder.write(index, augmenter.augment(records[index * SHARD_RECORDS : (index + 1) * SHARD_RECORDS]))


@lru_cache(maxsize=1)
def _loaded(folder: WorkFolder) -> tuple[Augmenter, list[tuple[int, Record]]]:
    task, config = folder.settings()
    segmenter = load_segmenter("augmentation")
    return build_augmenter(task, config, segmenter, folder.words(), chosen_device()), read_numbered(task)


def _begin_worker(numbers: "Queue[int]") -> None:
    """Take a GPU, ignore requests to stop, which the parent obeys, and end with the parent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if num_gpus := torch.cuda.device_count():
        with suppress(RuntimeError):
            torch.cuda.set_device(numbers.get() % num_gpus)
    torch.set_num_threads(1)
    mute_transformers()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
