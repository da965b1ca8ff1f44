"""Malformed input files through the command: one clear line and exit code 2, or a counted reject."""

import io
import json
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from corpus.building import read_step
from corpus.reading import compression
from corpus.shards.manifest import load_manifest
from launch.build_corpus import main

GOOD = "天地玄黄天地玄黄"


@pytest.fixture
def build(tmp_path, tokenizer, capsys):
    """Builds from a file of these bytes; exit code and all that was said. Nothing else may come to lie anywhere."""

    def run(name: str, data: bytes, *more: str) -> tuple[int, str]:
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        arguments = ["--input", str(path), "--tokenizer", tokenizer, "--output", str(tmp_path / "out")]
        kind = ["--format", "jsonl", "--text-fields", "t"] if ".jsonl" in name else ["--format", "lines"]
        with warnings.catch_warnings():
            code = main([*arguments, *kind, "--workers", "1", *more])
        assert {item.name for item in tmp_path.iterdir()} <= {"in", "out", "out.partial"}
        assert list(path.parent.iterdir()) == [path]
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def counts(tmp_path: Path) -> tuple[int, int, dict]:
    totals = load_manifest(tmp_path / "out").totals
    assert totals.documents_in == totals.documents + sum(totals.rejected.values())
    return totals.documents_in, totals.documents, totals.rejected


DEEP = b'{"t": "x", "y": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    ("name", "bad", "more", "reason"),
    [
        ("a.txt", "天\0地".encode(), (), "nul_byte"),
        ("a.jsonl", b'{"t": "\\u5929\\u0000"}', (), "nul_byte"),
        ("a.jsonl", DEEP, (), "broken_json"),
        ("a.txt", "天地".encode("gb18030"), (), "invalid_utf8"),
        ("a.txt", b"\xff\xfe\xff", ("--encoding", "detect"), "unknown_encoding"),
        ("a.jsonl", b'{"t": 7}', (), "field_not_a_string"),
    ],
)
def test_one_bad_document_is_one_counted_reject(tmp_path, build, name, bad, more, reason):
    good = json.dumps({"t": GOOD}).encode() if name == "a.jsonl" else GOOD.encode()
    code, told = build(name, good + b"\n" + bad + b"\n", *more)
    assert code == 0 and counts(tmp_path) == (2, 1, {reason: 1})
    assert f"rejected  a: {reason} 1, e.g. {name}:2" in told


def test_a_file_of_two_encodings_is_read_whole_when_asked_for(tmp_path, build):
    code, _ = build("a.txt", GOOD.encode() + b"\n" + "玄黄天地".encode("gb18030"), "--encoding", "detect")
    assert code == 0 and counts(tmp_path) == (2, 2, {})


def test_utf16_is_refused(build):
    code, told = build("a.txt", f"{GOOD}\n{GOOD}\n".encode("utf-16"))
    assert code == 2 and told.endswith("error: a.txt: is UTF-16, not utf-8; give --encoding utf-16\n")
    for order in ("utf-16-le", "utf-16-be"):
        code, told = build("a.txt", f"{GOOD}\n{GOOD}\n".encode(order))
        said = f"a.txt: seems to be UTF-16 without a byte order mark, not utf-8; give --encoding {order}\n"
        assert code == 2 and told.endswith(said)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "a.txt",
            GOOD.encode("gbk"),
            "(invalid_utf8 1), e.g. a.txt:1; invalid_utf8: --encoding detect or gb18030 (which covers GBK and GB2312)",
        ),
        (
            "a.jsonl",
            b'{"title": "x", "body": "y"}',
            "(field_missing 1), e.g. a.jsonl:1 (no t; it has title, body); "
            "field_missing: name fields that the records have: --format jsonl --text-fields",
        ),
        (
            "a.jsonl",
            b'{"t": 1',
            "(broken_json 1), e.g. a.jsonl:1; broken_json: jq -c . FILE says what is",
        ),
    ],
)
def test_where_nothing_is_left_the_cure_is_told(build, name, data, said):
    code, told = build(name, data)
    assert code == 2 and f"error: no document survived of 1 {said}" in told


def test_json_lines_read_as_text_are_told_before_anything_is_read(build):
    line = json.dumps({"t": GOOD}, ensure_ascii=False).encode()
    for more in ((), ("--explain",)):
        code, told = build("a.txt", line, *more)
        assert code == 2 and "error: a.txt: looks like JSON; give --format jsonl and --text-fields\n" in told


def test_a_line_without_end_is_refused(monkeypatch, build):
    monkeypatch.setattr("corpus.reading.lines.MAX_LINE_BYTES", 1 << 20)
    code, told = build("a.txt", GOOD.encode() + b"\n" + "天".encode() * (1 << 20))
    assert code == 2 and "error: a.txt: a line at or after line 2 is longer than 1 MiB\n" in told


def test_ids_that_occur_twice_are_told(tmp_path, build):
    lines = [json.dumps({"t": GOOD[number:], "k": number // 2}) for number in range(4)]
    code, told = build("a.jsonl", "\n".join(lines).encode(), "--id-field", "k")
    assert code == 0 and counts(tmp_path) == (4, 4, {})
    labels = "a.jsonl:2 (id 0), a.jsonl:4 (id 1)"
    assert f"warning: a: 2 documents have the id of an earlier one, and are kept, e.g. {labels}\n" in told


def pack_tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for member, type in (("good", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = type, "/etc/passwd" if type != tarfile.REGTYPE else ""
            info.size = len(GOOD.encode()) if type == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(GOOD.encode()))
    return file.getvalue()


def test_an_archive_that_leads_out_is_refused(build):
    code, told = build("a.tar", pack_tar("/etc/passwd"))
    assert code == 2 and "a.tar//etc/passwd: has a path that leads out of the archive\n" in told
    code, told = build("a.tar", pack_tar("../up"))
    assert code == 2 and "a.tar/../up: has a path that leads out of the archive\n" in told


def test_links_in_an_archive_are_never_followed(tmp_path, build):
    code, told = build("a.tar", pack_tar("link", tarfile.SYMTYPE))
    assert code == 0 and counts(tmp_path) == (1, 1, {})
    assert "a.tar: skipped 1 links, devices or sparse members\n" in told


def test_a_bomb_is_refused(monkeypatch, build):
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 20)
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10 << 20))
    code, told = build("a.zip", file.getvalue())
    assert code == 2 and "a.zip/zeros: inflates to more than 200 times its size\n" in told


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, monkeypatch, build):
    reader = read_step.read_source

    def append(*arguments):
        yield from reader(*arguments)
        with (tmp_path / "in" / "a.txt").open("ab") as file:
            file.write(b"more\n")

    monkeypatch.setattr(read_step, "read_source", append)
    code, told = build("a.txt", GOOD.encode())
    assert code == 2 and "error: a.txt: has changed since the build began; run it again\n" in told
    assert not (tmp_path / "out").exists()
