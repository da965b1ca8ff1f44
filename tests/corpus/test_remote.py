"""Builds from inputs at URLs: the same corpus as from local files, or a clear error."""

import gzip
import io
import json
import shutil
import tarfile
import zipfile

import fsspec
import pytest
import zstandard

from corpus import remote
from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from tests.corpus.servers import moto_program, nginx, nginx_program, range_server, s3

pytestmark = pytest.mark.filterwarnings("ignore:s. .* documents rejected .duplicate")
FILES = ("a.txt", "b.txt.gz", "c.txt.zst", "d.zip")


@pytest.fixture
def folder(tmp_path, documents):
    """The same lines in four kinds of file, each longer than a chunk."""
    (tmp_path / "in").mkdir()
    data = "\n".join(f"{text}{number}" for number, text in enumerate(documents * 4)).encode()
    (tmp_path / "in/a.txt").write_bytes(data)
    (tmp_path / "in/b.txt.gz").write_bytes(gzip.compress(data))
    (tmp_path / "in/c.txt.zst").write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(data))
    with zipfile.ZipFile(tmp_path / "in/d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.txt", data)
    return tmp_path / "in"


@pytest.fixture
def build(tmp_path, wordpiece):
    def run(*inputs):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
        source = {"name": "s", "format": "lines", "inputs": inputs, "cleaning": {"min_chinese_share": 0.0}}
        state = {"sources": [source], "tokenizer": str(wordpiece), "output": str(tmp_path / "out")}
        manifest, _ = build_corpus(BuildConfig.model_validate_json(json.dumps(state)), 1)
        return manifest.fingerprint, manifest.totals

    return run


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_SECONDS", (0.01, 0.01, 0.01, 0.01))
    with range_server(folder) as server:
        yield server


def test_http(build, folder, server):
    assert build(*(f"{server.url}/{name}" for name in FILES)) == build(*(str(folder / name) for name in FILES))


def test_small_members_of_a_tar_share_requests(build, folder, server):
    with tarfile.open(folder / "many.tar", "w") as archive:
        for number in range(100):
            data = f"第{number}篇天地玄黄宇宙洪荒".encode()
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    once = (folder / "many.tar").stat().st_size
    made = build(f"{server.url}/many.tar")
    assert made == build(str(folder / "many.tar")) and made[1].documents == 100
    assert server.num_bytes < 5 * once and server.num_gets < 10


@pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed (Debian: apt-get install nginx)")
def test_nginx(build, folder, tmp_path):
    (folder / "manifest.json").write_text("{}")  # what tells that the server is there
    with nginx(folder, tmp_path) as url:
        assert build(*(f"{url}/{name}" for name in FILES)) == build(*(str(folder / name) for name in FILES))


@pytest.mark.skipif(moto_program() is None, reason="moto's server is not installed (see requirements.txt)")
def test_s3(build, folder, monkeypatch):
    with s3(monkeypatch):
        files = fsspec.filesystem("s3")
        files.mkdir("texts")
        for name in FILES:
            files.put_file(str(folder / name), f"texts/in/{name}")
        expected = build(*(str(folder / name) for name in FILES))
        assert build("s3://texts/in") == expected == build(*(f"s3://texts/in/{name}" for name in FILES))
        with pytest.raises(ValueError, match=r"s3://texts/in/e\.txt: cannot be opened: "):
            build("s3://texts/in/e.txt")


@pytest.mark.parametrize("fault", ["503", "hang up", "cut", "short", "whole"])
@pytest.mark.parametrize("name", FILES)
def test_passing_faults_are_retried(build, folder, server, name, fault):
    expected = build(str(folder / name))
    server.fault = lambda path, number: fault if number < 1 else None
    assert build(f"{server.url}/{name}") == expected


@pytest.mark.parametrize("fault", ["503", "hang up", "cut", "short"])
@pytest.mark.parametrize("name", FILES)
def test_lasting_faults_raise_and_name_the_file(build, server, name, fault):
    server.fault = lambda path, number: fault
    with pytest.raises(ValueError, match=r"cannot be read.*gave up after 5 attempts; the last: ") as told:
        build(f"{server.url}/{name}")
    assert name in str(told.value)


def test_a_hanging_server_times_out(build, server, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_SECONDS", (0.01,))
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 1.0)
    server.fault = lambda path, number: "slow"
    with pytest.raises(
        ValueError, match=r"a\.txt: cannot be read.*gave up after 2 attempts; the last: no answer within 1 s"
    ):
        build(f"{server.url}/a.txt")


def test_a_missing_file_is_named(build, server):
    with pytest.raises(ValueError, match=r"http://.*/e\.txt: cannot be opened: 404, message='Not Found'"):
        build(f"{server.url}/e.txt")
