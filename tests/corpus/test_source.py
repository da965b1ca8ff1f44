"""What a newcomer's files are, where they are not a text a line."""

import gzip
import io
import json
import re
import tarfile
import warnings
import zipfile

import pyarrow as pa
import pytest
from pyarrow import parquet

from corpus import source
from corpus.config import SourceConfig
from corpus.reading.parts import find_parts, read_streams
from corpus.source import find_inputs

LONG = '{"t": "' + "天" * 400_000 + '"}'
JSON = "".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in ("天地", "玄黄", "宇宙", "洪荒"))


def told(folder, **more: str) -> list[str]:
    """What is warned of when a folder's files are looked into."""
    source = SourceConfig.model_validate({"name": "own", "inputs": (str(folder),), "format": "lines"} | more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert find_inputs(source)
    return [str(warning.message) for warning in caught]


def write(folder, **files: bytes) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def pack_zip(name: str, data: str) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


def pack_tar_gz(name: str, data: str) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data.encode())
        archive.addfile(info, io.BytesIO(data.encode()))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "file"),
    [
        ("own.jsonl", JSON.encode(), "own.jsonl"),
        ("own.txt", b"\xef\xbb\xbf\n" + JSON.encode(), "own.txt"),
        ("own.gz", gzip.compress(JSON.encode(), mtime=0), "own.gz"),
        ("own.zip", pack_zip("in", JSON), "own.zip/in"),
        ("own.tar.gz", pack_tar_gz("in", LONG), "own.tar.gz/in"),
    ],
)
def test_json_lines_read_as_text_are_told_once_a_source(tmp_path, name, data, file):
    write(tmp_path, **{name: data, f"z{name}": data, "README.md": "天地\n".encode()})
    said = f"own: {tmp_path.name}/{file} looks like JSON lines; give --format jsonl and --text-fields"
    assert told(tmp_path) == [said]


def test_json_lines_in_another_encoding_and_tables_are_told_too(tmp_path):
    write(tmp_path, a=JSON.encode("gbk"))
    assert told(tmp_path) == [] and len(told(tmp_path, encoding="gb18030")) == 1
    parquet.write_table(pa.table({"t": ["天地"]}), tmp_path / "b.parquet")
    assert told(tmp_path)[0].startswith(f"own: {tmp_path.name}/b.parquet looks like JSON lines; ")


@pytest.mark.parametrize(
    ("name", "data", "file", "separators"),
    [
        ("own.csv", b"a,b\n", "own.csv", "commas"),
        ("own.TSV", b"a\tb\n", "own.TSV", "tabs"),
        ("own.csv.gz", gzip.compress(b"a,b\n", mtime=0), "own.csv.gz", "commas"),
        ("own.zip", pack_zip("in.csv", "a,b\n"), "own.zip/in.csv", "commas"),
        ("own.tgz", pack_tar_gz("in.tsv", "a\tb\n"), "own.tgz/in.tsv", "tabs"),
    ],
)
def test_columns_read_as_text_are_told(tmp_path, name, data, file, separators):
    write(tmp_path, **{name: data})
    (said,) = told(tmp_path)
    assert said == (
        f"own: {tmp_path.name}/{file} is read as plain text, quotes and {separators} included; "
        "for some of its columns make JSON lines of it"
    )


@pytest.mark.parametrize("text", ["天地\n玄黄\n", '{"t": "天地"}\n玄黄\n', "[1]\n", "{天地}\n", " \n\n"])
def test_text_and_what_is_asked_for_by_its_own_format_is_not_warned_of(tmp_path, text):
    write(tmp_path, a=text.encode())
    assert told(tmp_path) == []
    write(tmp_path, a=JSON.encode())
    assert told(tmp_path, format="wiki2019zh") == []


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("own.7z", b"7z\xbc\xaf\x27\x1c..", "holds .7z, which its name does not say; .7z cannot be read: unpack it"),
        ("own.bin", pack_zip("in", JSON), "holds .zip, which its name does not say; name it so"),
        ("own.txt", gzip.compress(b"x", mtime=0), "holds .gz, which its name does not say; name it so"),
        ("own.json", b'\n[{"t": "x"},\n', "is a JSON array; jsonl wants a record a line, as jq -c '.[]' makes of it"),
        (
            "own.gz",
            gzip.compress(b"[{}]", mtime=0),
            "is a JSON array; jsonl wants a record a line, as jq -c '.[]' makes of it",
        ),
    ],
)
def test_what_no_line_of_is_a_record_is_refused(tmp_path, name, data, said):
    write(tmp_path, **{"a.jsonl": JSON.encode(), name: data})
    source = SourceConfig.model_validate(
        {"name": "own", "inputs": (str(tmp_path),), "format": "jsonl", "text_fields": ("t",)}
    )
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path.name}/{name}: {said}")):
        find_inputs(source)


def test_suffixes_are_read_in_either_case(tmp_path):
    files = {"A.ZIP": pack_zip("in.txt", "天地"), "B.TGZ": pack_tar_gz("in", "玄黄"), "c.GZ": gzip.compress(b"x")}
    write(tmp_path, **files)
    parts = find_parts([tmp_path])
    assert [part.name.partition("/")[2] for part in parts] == ["A.ZIP/in.txt", "B.TGZ", "c.GZ"]
    texts = [b"".join(line for _, line in lines) for part in parts for _, lines in read_streams(part, len)]
    assert texts == ["天地".encode(), "玄黄".encode(), b"x"]


def test_many_small_files_read_line_by_line_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_MANY_FILES", 3)
    write(tmp_path, a=b"t\n\nx\n", b="天地\n".encode())
    assert told(tmp_path) == []
    write(tmp_path, c="玄黄\n".encode())
    said = "own: each line of 3 small files becomes a document; if each file is one, give --format files"
    assert told(tmp_path) == [said]
    assert told(tmp_path, format="files") == []
    write(tmp_path, c=b"x\n" * (32 << 10))
    assert told(tmp_path) == []
