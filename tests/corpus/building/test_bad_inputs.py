"""Inputs at fault that are skipped: what is kept of each, counted and named."""

import gzip
import io
import json
import random
import tarfile
import zipfile

import fsspec
import pytest

from corpus.building import workers
from corpus.building.builder import build_corpus, plan_corpus, run_unit
from corpus.building.read_step import read_unit
from corpus.config import BuildConfig
from corpus.document import Reason
from corpus.reading import streams
from corpus.shards.manifest import FILE_NAME, load_manifest, save_manifest
from tests.corpus.conftest import HAN


def lines(number: int, count: int = 40) -> bytes:
    """Documents of their own for every number."""
    chosen = random.Random(number)
    return "".join("".join(chosen.choices(HAN, k=30)) + "\n" for _ in range(count)).encode()


def flipped(data: bytes, at: float = 0.6) -> bytes:
    changed = bytearray(data)
    changed[int(len(data) * at)] ^= 0x55
    return bytes(changed)


def pack_zip(members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def pack_tar(members: dict[str, bytes], mode="w") -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def build(tmp_path, wordpiece):
    (tmp_path / "data").mkdir()

    def configured(on_bad_input="skip", output="out", **files: bytes):
        for name, data in files.items():
            (tmp_path / "data" / name).write_bytes(data)
        source = {"name": "s", "format": "lines", "inputs": [str(tmp_path / "data")], "on_bad_input": on_bad_input}
        state = {"sources": [source], "tokenizer": str(wordpiece), "output": str(tmp_path / output)}
        return BuildConfig.model_validate_json(json.dumps(state))

    return configured


GOOD = {"a.txt": lines(0), "z.gz": gzip.compress(lines(1))}
STORED = pack_zip({"in1": lines(2), "in2": lines(3)})
FAULTS = {
    # name and bytes; documents kept of it; what is said
    "cut.gz": (gzip.compress(lines(2))[:-300], range(1, 39), "data/cut.gz: cannot be read to its end: the compressed"),
    "flip.gz": (flipped(gzip.compress(lines(2))), [0], "data/flip.gz: cannot be read to its end: Error -3"),
    "not.zst": (lines(2), [0], "data/not.zst: cannot be read to its end"),
    "empty.bz2": (b"", [0], "data/empty.bz2: empty, probably truncated"),
    "cut.zip": (STORED[:-30], [0], "data/cut.zip: cannot be read as zip, probably truncated"),
    "flip.zip": (flipped(STORED, 0.25), [40], "data/flip.zip/in1: cannot be read to its end: Bad CRC-32"),
    "nest.zip": (pack_zip({"in1": lines(2), "x.zip": b"x"}), [40], "data/nest.zip/x.zip: is an archive itself"),
    "cut.tar": (
        pack_tar({"in1": lines(2), "in2": lines(3)})[:6000],
        range(41, 79),
        "data/cut.tar: cannot be read as tar",
    ),
    "member.tgz": (
        pack_tar({"in1.gz": gzip.compress(lines(2))[:-9], "in2": lines(3)}, "w:gz"),
        range(41, 81),
        "data/member.tgz/in1.gz: cannot be read to its end",
    ),
    "utf16.txt": (lines(2).decode().encode("utf-16"), [0], "data/utf16.txt: is UTF-16, not utf-8; give --encoding"),
    "page.txt": (b"<!DOCTYPE html><html>", [0], "data/page.txt: is a page of HTML"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_what_it_must_and_is_named(build, name):
    data, kept, said = FAULTS[name]
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        build_corpus(build("stop", **GOOD, **{name: data}))
    with pytest.warns(UserWarning, match="s: . inputs at fault were skipped, at least in part: ") as caught:
        manifest, _ = build_corpus(build())
    (source,) = manifest.sources
    assert source.documents - 80 in kept and source.bad_inputs[0].startswith(said)
    assert source.rejected[Reason.UNREADABLE] == len(source.bad_inputs) <= 2
    assert said in str(caught[-1].message)
    # Built already: the same inputs are found again, at fault as they are
    assert build_corpus(build())[1] is False


def test_the_same_bytes_for_any_number_of_workers(build, tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.building.plan.UNIT_BYTES", 4000)
    files = GOOD | {name: data for name, (data, _, _) in FAULTS.items()}
    with pytest.warns(UserWarning, match="inputs at fault"):
        one, _ = build_corpus(build(**files), num_workers=1)
        monkeypatch.setattr(workers, "num_usable_cores", lambda: 2)
        two, _ = build_corpus(build(output="two"), num_workers=2)
    assert one.fingerprint == two.fingerprint and one.sources == two.sources
    assert len(one.sources[0].bad_inputs) >= len(FAULTS)


def test_what_was_read_is_reused_when_faults_are_skipped_and_not_the_other_way(build, tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.building.plan.UNIT_BYTES", 10)
    with pytest.raises(ValueError, match=r"m\.gz: cannot be read to its end"):
        build_corpus(build("stop", **GOOD, **{"m.gz": gzip.compress(lines(2))[:-9]}))
    read = sorted(path.name for path in (tmp_path / "out.partial").glob("read-*"))
    plan, _ = plan_corpus(build("skip"))
    assert len(read) == 1 and read[0] == f"read-{plan.key(0)}"
    for index in range(3):
        run_unit(build("skip"), read_unit, index)
    plan_corpus(build("stop"))
    with pytest.raises(ValueError, match=r"m\.gz: cannot be read to its end"):
        run_unit(build("stop"), read_unit, 1)


def test_manifests_without_the_new_keys_load(build, tmp_path):
    manifest, _ = build_corpus(build(**GOOD))
    path = tmp_path / "out" / FILE_NAME
    state = json.loads(path.read_bytes())
    for source in state["sources"]:
        del source["bad_inputs"], source["on_bad_input"]
    del state["digest"]
    path.write_text(json.dumps(state))
    old = load_manifest(tmp_path / "out")
    assert old.fingerprint == manifest.fingerprint and old.sources[0].bad_inputs == []
    save_manifest(old, tmp_path / "out")
    assert build_corpus(build("stop"))[1] is False


def test_a_server_that_fails_stops_the_build_even_so(build, monkeypatch):
    """It is no fault of the file: skipping would make the corpus depend on the network."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/far/a.gz", gzip.compress(lines(2))[:-300])
    config = build(**GOOD)
    (source,) = config.sources
    far = config.model_copy(update={"sources": (source.model_copy(update={"inputs": ("memory://far/a.gz",)}),)})
    try:
        with pytest.warns(UserWarning, match="1 inputs at fault were skipped, at least in part: a.gz: cannot"):
            assert build_corpus(far)[0].totals.documents > 0

        def refuse(url):
            raise OSError("gave up after 5 attempts")

        monkeypatch.setattr(streams, "open_remote", refuse)
        again = far.model_copy(update={"output": far.output + "2"})
        with pytest.raises(ValueError, match=r"a\.gz: cannot be read to its end: gave up after 5 attempts"):
            build_corpus(again)
    finally:
        memory.rm("/far", recursive=True)
