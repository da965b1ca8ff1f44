import os
import shutil
from itertools import islice

import fsspec
import numpy as np
import pytest

from corpus import remote
from corpus.rows.stream import RowStream
from corpus.shards.block_cache import BlockCache
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import read_block, verify
from corpus.shards.store import StoreLost, open_store
from tests.corpus.servers import moto_program, nginx, nginx_program, range_server, s3


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_SECONDS", (0.01, 0.01, 0.01, 0.01))
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def server(corpus_folder, tmp_path):
    """A copy to damage, served."""
    with range_server(shutil.copytree(corpus_folder, tmp_path / "served")) as server:
        yield server


def epoch(manifest) -> np.ndarray:
    stream = RowStream(manifest, 16, seed=17)
    return stream.rows(np.arange(stream.rows_per_epoch))


def check_is_the_same_corpus(url, corpus_folder, cache=None):
    """Rows, batches and checksums of a corpus behind a URL are those of the folder."""
    here, there = load_manifest(corpus_folder), load_manifest(url, cache)
    assert here.fingerprint == there.fingerprint and there.store.location == url
    assert (epoch(here) == epoch(there)).all() and verify(there) == []
    batches = [RowStream(manifest, 16, 17).batches(40, 8, 1, 2) for manifest in (here, there)]
    for ours, theirs in islice(zip(*batches, strict=True), 5):
        assert (ours["input_ids"] == theirs["input_ids"]).all()
    for each in batches:
        each.close()


def test_memory(corpus_folder):
    files = fsspec.filesystem("memory")
    for path in corpus_folder.iterdir():
        files.pipe_file(f"/corpora/tiny/{path.name}", path.read_bytes())
    check_is_the_same_corpus("memory://corpora/tiny", corpus_folder)
    files.rm("/corpora/tiny/shard-00001.bin")
    with pytest.raises(ValueError, match=r"memory://corpora/tiny/shard-00001\.bin: the shard is missing"):
        load_manifest("memory://corpora/tiny")
    with pytest.raises(StoreLost, match=r"memory://nowhere/manifest\.json: there is no manifest"):
        load_manifest("memory://nowhere")


def test_http_with_ranges(server, corpus_folder, tmp_path):
    check_is_the_same_corpus(server.url, corpus_folder, BlockCache(tmp_path / "cache", 1 << 20))
    assert load_manifest(server.url + "/manifest.json").store.location == server.url


@pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed (Debian: apt-get install nginx)")
def test_nginx(corpus_folder, tmp_path):
    with nginx(corpus_folder, tmp_path) as url:
        check_is_the_same_corpus(url, corpus_folder)


@pytest.mark.skipif(moto_program() is None, reason="moto's server is not installed (see requirements.txt)")
def test_s3(corpus_folder, tmp_path, monkeypatch):
    with s3(monkeypatch):
        files = fsspec.filesystem("s3")
        files.mkdir("corpora")
        for path in corpus_folder.iterdir():
            files.put_file(str(path), f"corpora/tiny/{path.name}")
        check_is_the_same_corpus("s3://corpora/tiny", corpus_folder, BlockCache(tmp_path / "cache", 1 << 20))
        sizes = {path.name: path.stat().st_size for path in corpus_folder.iterdir()}
        assert open_store("s3://corpora/tiny").listed_sizes() == sizes
        files.rm("corpora/tiny/shard-00001.bin")
        with pytest.raises(ValueError, match=r"s3://corpora/tiny/shard-00001\.bin: the shard is missing"):
            load_manifest("s3://corpora/tiny")
        files.rm("corpora/tiny/manifest.json")
        with pytest.raises(ValueError, match="there is no manifest"):
            load_manifest("s3://corpora/tiny")


@pytest.fixture
def in_memory(corpus_folder):
    """A corpus in a store that can be listed, with the methods that were asked for files of it."""
    files = fsspec.filesystem("memory")
    for path in corpus_folder.iterdir():
        files.pipe_file(f"/corpora/listed/{path.name}", path.read_bytes())
    yield files
    files.rm("/corpora/listed", recursive=True)


def test_one_listing_gives_the_sizes(in_memory, monkeypatch):
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(in_memory, "info", asked.append)
        load_manifest("memory://corpora/listed")
    assert not asked


def test_without_a_listing_each_size_is_requested(in_memory, monkeypatch):
    """As in a bucket that can be read but not listed."""

    def refuse(path, detail):
        raise PermissionError("ListObjectsV2: Access Denied")

    monkeypatch.setattr(in_memory, "ls", refuse)
    load_manifest("memory://corpora/listed")
    in_memory.pipe_file("/corpora/listed/shard-00001.bin", b"short")
    with pytest.raises(ValueError, match=r"shard-00001\.bin: the shard has 5 bytes, but the manifest says"):
        load_manifest("memory://corpora/listed")


@pytest.mark.parametrize("fault", ["503", "hang up", "cut", "short", "flip", "slow", "whole"])
def test_passing_faults_are_retried(server, corpus_folder, fault):
    """Every block of a shard fails twice; the same rows as ever come out."""
    manifest = load_manifest(server.url)
    server.fault = lambda path, number: fault if path == "/shard-00001.bin" and number < 2 else None
    assert (epoch(manifest) == epoch(load_manifest(corpus_folder))).all()
    assert max(server.asked.values()) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "gave up after 5 attempts; the last: 503"),
        ("hang up", "gave up after 5 attempts; the last: Server disconnected"),
        ("cut", "gave up after 5 attempts; the last: Response payload is not completed"),
        ("short", r"gave up after 5 attempts; the last: \d+ bytes came, not the \d+ asked for"),
        ("flip", "gave up after 5 attempts; the last: the checksum does not match"),
        ("whole", r"gave up after 5 attempts; the last: \d+ bytes came, not the \d+ asked for"),
    ],
)
def test_a_lasting_fault_names_shard_and_block(server, fault, message):
    manifest = load_manifest(server.url)
    server.fault = lambda path, number: fault if path == "/shard-00001.bin" else None
    stream = RowStream(manifest, 16, seed=17)
    with pytest.raises(ValueError, match=rf"http://.*/shard-00001\.bin: block \d+: {message}"):
        list(islice(stream.batches(0, 8), stream.rows_per_epoch))


def test_a_hanging_server_times_out(server, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_SECONDS", (0.01,))
    manifest = load_manifest(server.url)
    server.fault = lambda path, number: "slow"
    message = r"block 3: gave up after 2 attempts; the last: no answer within 1 s \(FSTimeoutError\)"
    with pytest.raises(ValueError, match=message):
        read_block(manifest, 3)


def test_a_shard_lost_while_training_is_named(server):
    manifest = load_manifest(server.url)
    (server.folder / "shard-00001.bin").unlink()
    before = server.num_gets
    block = manifest.blocks.shard.index(1)
    with pytest.raises(ValueError, match=rf"http://.*/shard-00001\.bin: block {block}: the shard is missing"):
        read_block(manifest, block)
    assert server.num_gets == before + 1, "what is not there is not asked for again"


def test_reading_a_manifest_is_retried_too(server):
    server.fault = lambda path, number: "503" if number == 0 else None
    load_manifest(server.url)
    server.fault = lambda path, number: "503"
    with pytest.raises(StoreLost, match=r"manifest\.json: cannot be read: gave up after 5 attempts"):
        load_manifest(server.url)


def test_an_unknown_size_is_not_a_missing_shard(server):
    server.fails_heads = True
    server.fault = lambda path, number: "503" if path != "/manifest.json" and number < 2 else None
    load_manifest(server.url)
    server.fault = lambda path, number: "503" if path != "/manifest.json" else None
    with pytest.raises(StoreLost, match=r"http://.*/shard-00000\.bin: gave up after 5 attempts"):
        load_manifest(server.url)


def test_shards_of_another_size_are_refused(server):
    path = server.folder / "shard-00001.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"http://.*/shard-00001\.bin: the shard has \d+ bytes, but the manifest says"):
        load_manifest(server.url)


def test_unknown_protocols_are_refused():
    with pytest.raises(ValueError, match="nonsense://x: cannot be read: Protocol not known: nonsense"):
        load_manifest("nonsense://x")


def test_cached_blocks_are_not_fetched_again(server, tmp_path):
    expected = epoch(load_manifest(server.url, BlockCache(tmp_path / "cache", 1 << 20)))
    manifest = load_manifest(server.url, BlockCache(tmp_path / "cache", 1 << 20))
    before = server.num_bytes
    assert (epoch(manifest) == expected).all()
    assert server.num_bytes == before


def test_a_small_cache_stays_small(server, corpus_folder, tmp_path):
    largest = max(load_manifest(corpus_folder).blocks.length)
    cache = BlockCache(tmp_path / "cache", 3 * largest)
    assert (epoch(load_manifest(server.url, cache)) == epoch(load_manifest(corpus_folder))).all()
    files = [path for path in (tmp_path / "cache/blocks").iterdir() if path.suffix != ".lock"]
    assert len(files) >= 1 and sum(path.stat().st_size for path in files) <= 3 * largest


def test_a_damaged_cached_block_is_fetched_again(server, corpus_folder, tmp_path):
    cache = BlockCache(tmp_path / "cache", 1 << 20)
    epoch(load_manifest(server.url, cache))
    for number, path in enumerate(sorted((tmp_path / "cache/blocks").glob("*-*"))):
        data = path.read_bytes()
        path.write_bytes(data[:-1] if number % 2 else data[:-1] + bytes([data[-1] ^ 4]))
    before = server.num_gets
    manifest = load_manifest(server.url, cache)
    assert (epoch(manifest) == epoch(load_manifest(corpus_folder))).all()
    assert server.num_gets >= before + len(manifest.blocks)
    assert verify(manifest) == [] and server.num_gets == before + len(manifest.blocks) + 1  # and the manifest


def test_a_rank_fetches_its_share_of_the_bytes(server):
    """Lanes side by side: with 8 ranks, each fetches an eighth and a block or two at the borders."""
    manifest = load_manifest(server.url)
    total, largest = sum(manifest.blocks.length), max(manifest.blocks.length)
    for world_size in (2, 8):
        for rank in range(world_size):
            stream = RowStream(manifest, 8, seed=17)
            before = server.num_bytes
            stream.rows(np.arange(rank, stream.rows_per_epoch, world_size))
            assert 0 < server.num_bytes - before <= total / world_size + 2 * largest


def test_a_folder_is_a_local_store(tmp_path):
    assert open_store(tmp_path).num_readers == 1 and open_store(str(tmp_path)) == open_store(tmp_path)
    assert open_store(os.fspath(tmp_path)).size("nothing") is None
