import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from corpus.shards.block_cache import BlockCache


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix != ".lock"}


def test_written_blocks_are_read(tmp_path):
    cache = BlockCache(tmp_path / "deep/cache", 100)
    assert cache.read("a") is None
    cache.write("a", b"x" * 60)
    assert cache.read("a") == b"x" * 60 == BlockCache(tmp_path / "deep/cache", 100).read("a")
    cache.drop("a")
    cache.drop("a")
    assert cache.read("a") is None and not sizes(tmp_path / "deep/cache/blocks")
    cache.write("b", b"y" * 101)
    assert cache.read("b") is None


def test_the_least_recently_used_is_dropped(tmp_path):
    cache = BlockCache(tmp_path, 100)
    for age, name in enumerate("abc"):
        cache.write(name, b"x" * 30)
        os.utime(tmp_path / "blocks" / name, ns=(age, age))
    cache.read("a")
    cache.write("d", b"x" * 30)
    assert set(sizes(tmp_path / "blocks")) == {"a", "c", "d"}


def test_writing_again_counts_once(tmp_path):
    cache = BlockCache(tmp_path, 100)
    for _ in range(10):
        cache.write("a", b"x" * 30)
    cache.write("b", b"x" * 60)
    assert set(sizes(tmp_path / "blocks")) == {"a", "b"}


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    cache = BlockCache(tmp_path, 100)
    (tmp_path / "blocks/z.partial").write_bytes(b"x" * 90)
    for name in "abcd":
        cache.write(name, b"x" * 30)
    assert "z.partial" not in sizes(tmp_path / "blocks") and sum(sizes(tmp_path / "blocks").values()) <= 100


def test_other_files_in_the_folder_stay(tmp_path):
    """For example on a scratch disk."""
    theirs = [tmp_path / name for name in ("thesis.docx", "download.zip.partial")]
    for path in theirs:
        path.write_bytes(b"x" * 1000)
        os.utime(path, ns=(0, 0))
    cache = BlockCache(tmp_path, 100)
    for name in "abcd":
        cache.write(name, b"x" * 60)
    assert all(path.stat().st_size == 1000 for path in theirs)
    assert cache.read("d") and not cache.read("a")


def test_an_unwritable_cache_warns_once_and_is_still_read(tmp_path, monkeypatch):
    cache = BlockCache(tmp_path, 100)
    cache.write("a", b"x" * 30)

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="no more blocks are cached: No space left on device"):
        cache.write("b", b"x" * 30)
    cache.write("c", b"x" * 30)
    assert cache.read("a") == b"x" * 30 and cache.read("b") is None


def test_an_impossible_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/cache: cannot be used as a cache: Not a directory"):
        BlockCache(tmp_path / "file/cache", 100)


def content(name: int) -> bytes:
    return bytes([name]) * (100 + 13 * name)


def use(folder: Path, seed: int, faults: multiprocessing.Queue) -> None:
    cache = BlockCache(folder, 5000)
    random = np.random.default_rng(seed)
    for name in random.integers(0, 60, 400).tolist():
        data = cache.read(str(name))
        if data is None:
            cache.write(str(name), content(name))
        elif data != content(name):
            faults.put(name)


def test_processes_share_the_cache(tmp_path):
    """Four writers, one killed while writing: never a torn file, never above the limit for long."""
    context = multiprocessing.get_context("fork")
    faults = context.Queue()
    workers = [context.Process(target=use, args=(tmp_path, seed, faults)) for seed in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(0.05)
    workers[0].kill()
    while any(worker.is_alive() for worker in workers):
        total = 0
        for path in list((tmp_path / "blocks").glob("*")):
            try:
                total += path.stat().st_size if path.suffix != ".lock" else 0
            except FileNotFoundError:
                continue
        assert total <= 5000 + content(60).__len__() * 2  # files come and go while they are listed
    for worker in workers[1:]:
        worker.join()
        assert worker.exitcode == 0
    assert faults.empty() and 2500 < sum(sizes(tmp_path / "blocks").values()) <= 5000


def test_waiting_for_the_lock_ends_after_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.shards.block_cache._LOCK_SECONDS", 0.1)
    cache = BlockCache(tmp_path, 5000)
    cache.write("1", content(1))
    with (tmp_path / "blocks/total_bytes.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for use in (lambda: cache.write("2", content(2)), lambda: cache.drop("1")):
            with pytest.warns(
                UserWarning, match="no more blocks are cached: another process holds its lock for more th"
            ):
                use()
    assert cache.read("1") == content(1) and cache.read("2") is None
