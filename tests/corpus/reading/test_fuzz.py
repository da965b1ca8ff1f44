"""Damaged copies of real files: each is refused by one clear error, or read with every document accounted for."""

import bz2
import gzip
import io
import json
import lzma
import random
import re
import signal
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from corpus.building.builder import build_corpus
from corpus.cleaning.cleaner import Cleaner
from corpus.config import BuildConfig, CleaningSettings
from corpus.document import Document
from corpus.reading.formats import read_documents
from corpus.reading.parts import find_parts
from corpus.reading.streams import read_streams
from corpus.shards.shard import verify
from tests import mutations
from tests.mutations import BYTE_MUTATIONS, Hang, limited_time

SHARED = Path(__file__).parents[3] / "../shared/data"
FILES = {"wiki2019zh": "wiki_00.zst", "clue": "CLUECorpusSmall_bert_sampled.txt.zst"}
NUM_BYTES, MAX_LINE_BYTES = 40_000, 4_000


def pack_zip(data: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", data)
        archive.writestr("deep/two", data)
    return file.getvalue()


def pack_tar(data: bytes) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for name in ("one", "deep/two"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def pack_zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)  # as the zstd command does


# What carries a checksum gives the undamaged text or nothing.
CHECKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": pack_zst,
    ".zip": pack_zip,
    ".tar.gz": lambda data: gzip.compress(pack_tar(data)),
    ".tar.zst": lambda data: pack_zst(pack_tar(data)),
}
PACKS = {"": bytes, ".tar": pack_tar} | CHECKED


@pytest.fixture(scope="module")
def samples() -> dict[tuple[str, str], bytes]:
    """The first whole lines of real files, but for long ones, by format and encoding."""
    found = {}
    for format, name in FILES.items():
        path = SHARED / "formats" / name
        if not path.is_file():
            pytest.skip(f"shared data is not there: {name}")
        with path.open("rb") as file:
            lines = zstandard.ZstdDecompressor().stream_reader(file).read(10 * NUM_BYTES).splitlines(keepends=True)
        text = b"".join(line for line in lines[:-1] if len(line) < MAX_LINE_BYTES)[:NUM_BYTES]
        text = text[: text.rindex(b"\n") + 1].decode()
        found[format, "utf-8"] = text.encode()
        found[format, "detect"] = text.encode("gb18030")
    return found


def read(path: Path, format: str, encoding: str) -> list:
    """All documents and rejects of a file, cleaned."""
    cleaner = Cleaner(CleaningSettings())
    items = []
    for part in find_parts([path]):
        for name, lines in read_streams(part, len):
            items += read_documents(format, lines, name, encoding=encoding)
    return [cleaner.clean(item) if isinstance(item, Document) else item for item in items]


def num_documents(data: bytes, format: str) -> int:
    """How many pieces of text there are, counted from the bytes alone."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    blank = rb"\n(?:[ \t\r\f\v]*\n)+" if format == "clue" else rb"\n"
    return sum(1 for piece in re.split(blank, data) if piece.strip())


def check_read(path: Path, data: bytes, mutant: bytes, suffix: str, format: str, encoding: str) -> str:
    """The name of the outcome, for the counts. Fails for an outcome that must not occur."""
    path.write_bytes(data)
    sound = read(path, format, encoding)
    path.write_bytes(mutant)
    try:
        with limited_time(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            items = read(path, format, encoding)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error), error
        return "refused"
    if suffix in CHECKED:
        assert told or items == sound, "damage behind a checksum went unnoticed"
        return "sound all the same"
    if suffix == "":
        assert len(items) == num_documents(mutant, format)
    else:
        assert {item.label.rpartition(":")[0] for item in items} == {item.label.rpartition(":")[0] for item in sound}
    return "read, every document accounted for"


def check_built(folder: Path, mutant: bytes, suffix: str, format: str, encoding: str, tokenizer: Path) -> str:
    path = folder / f"in{suffix}"
    path.write_bytes(mutant)
    source = {"name": "s", "format": format, "encoding": encoding, "inputs": [str(path)]}
    state = {"sources": [source], "tokenizer": str(tokenizer), "output": str(folder / "out"), "near_duplicates": {}}
    try:
        with limited_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            manifest, _ = build_corpus(BuildConfig.model_validate_json(json.dumps(state)), 1)
    except ValueError:
        assert {item.name for item in folder.iterdir()} <= {path.name, "out.partial"}
        return "build refused"
    totals = manifest.totals
    assert totals.documents_in == totals.documents + sum(totals.rejected.values())
    assert verify(manifest) == [] and {item.name for item in folder.iterdir()} == {path.name, "out"}
    return "built, every document accounted for"


def fuzz(samples, tmp_path: Path, tokenizer: Path, rounds: int, build_every: int) -> Counter[tuple[str, str, str]]:
    """Mutate every sample in every kind of file in every way; counts by kind, way and outcome."""
    rng = random.Random(17)
    outcomes: Counter[tuple[str, str, str]] = Counter()
    number = 0
    for (format, encoding), text in samples.items():
        for suffix, pack in PACKS.items():
            data = pack(text)
            for mutate in BYTE_MUTATIONS * rounds:
                mutant = mutate(data, rng)
                number += 1
                outcome = check_read(tmp_path / f"in{suffix}", data, mutant, suffix, format, encoding)
                outcomes[suffix or "plain", mutate.__name__, outcome] += 1
                if number % build_every == 0:
                    folder = tmp_path / str(number)
                    folder.mkdir()
                    outcome = check_built(folder, mutant, suffix, format, encoding, tokenizer)
                    outcomes[suffix or "plain", mutate.__name__, outcome] += 1
    return outcomes


def test_damaged_files_are_refused_or_accounted_for(samples, tmp_path, wordpiece):
    outcomes = fuzz(samples, tmp_path, wordpiece, rounds=2, build_every=31)
    assert {outcome for _, _, outcome in outcomes} >= {"refused", "read, every document accounted for"}


@pytest.mark.slow
def test_thousands_of_damaged_files(samples, tmp_path, wordpiece, capsys):
    outcomes = fuzz(samples, tmp_path, wordpiece, rounds=50, build_every=21)
    with capsys.disabled():
        print()
        for (suffix, mutation, outcome), count in sorted(outcomes.items()):
            print(f"{suffix:9} {mutation:9} {outcome:37} {count:6,}")


def test_the_time_limit_of_these_tests_works(monkeypatch):
    monkeypatch.setattr(mutations, "HANG_SECONDS", 1)
    with pytest.raises(Hang), limited_time():
        signal.pause()
        signal.pause()
