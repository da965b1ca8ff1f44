"""Inputs that are not what their format or name says: warnings and errors."""

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
from corpus.reading.parts import find_parts
from corpus.reading.streams import read_streams
from corpus.source import find_inputs

LONG = '{"t": "' + "天" * 400_000 + '"}'
JSON = "".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in ("天地", "玄黄", "宇宙", "洪荒"))


def warnings_of(folder, **more: str) -> list[str]:
    """The warnings of find_inputs for a folder."""
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
        ("pretty.json", json.dumps([{"t": "天地"}], indent=2).encode(), "pretty.json"),
        ("array.json", b'[{"t": "a"}, {"t": "b"}]', "array.json"),
        ("one.json", b'{\n  "t": "a"\n}\n', "one.json"),
        ("own.zip", pack_zip("in", JSON), "own.zip/in"),
        ("own.tar.gz", pack_tar_gz("in", LONG), "own.tar.gz/in"),
    ],
)
def test_json_read_as_text_is_refused(tmp_path, name, data, file):
    write(tmp_path, **{name: data, f"z{name}": data, "README.md": "天地\n".encode()})
    message = f"{tmp_path.name}/{file}: looks like JSON; give --format jsonl and --text-fields"
    for format in ("lines", "clue"):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            warnings_of(tmp_path, format=format)
    for more in ({"format": "files"}, {"on_bad_input": "skip"}):
        assert warnings_of(tmp_path, **more) == [f"own: {message.replace(':', '', 1)}"]


def test_json_lines_in_another_encoding_and_tables_warn_too(tmp_path):
    write(tmp_path, a=JSON.encode("gbk"))
    for encoding in ("utf-8", "gb18030"):
        with pytest.raises(ValueError, match="looks like JSON; give --format jsonl"):
            warnings_of(tmp_path, encoding=encoding)
    (tmp_path / "a").write_text("天地\n", encoding="utf-8")
    parquet.write_table(pa.table({"t": ["天地"]}), tmp_path / "b.parquet")
    assert warnings_of(tmp_path, format="files")[0].startswith(f"own: {tmp_path.name}/b.parquet looks like JSON; ")


@pytest.mark.parametrize(
    ("name", "data", "file", "format"),
    [
        ("own.csv", b"a,b\n", "own.csv", "csv"),
        ("own.TSV", b"a\tb\n", "own.TSV", "tsv"),
        ("own.csv.gz", gzip.compress(b"a,b\n", mtime=0), "own.csv.gz", "csv"),
        ("own.zip", pack_zip("in.csv", "a,b\n"), "own.zip/in.csv", "csv"),
        ("own.tgz", pack_tar_gz("in.tsv", "a\tb\n"), "own.tgz/in.tsv", "tsv"),
    ],
)
def test_columns_read_as_text_warn(tmp_path, name, data, file, format):
    write(tmp_path, **{name: data})
    (message,) = warnings_of(tmp_path)
    assert message == (
        f"own: {tmp_path.name}/{file} is read as plain text, quotes and separators included; "
        f"give --format {format} and --text-fields"
    )


@pytest.mark.parametrize("text", ["天地\n玄黄\n", '{"t": "天地"}\n玄黄\n', "[1]\n", "[注] 天地\n", "{天地}\n", " \n\n"])
def test_text_and_files_read_in_their_own_format_do_not_warn(tmp_path, text):
    write(tmp_path, a=text.encode())
    assert warnings_of(tmp_path) == []
    write(tmp_path, a=JSON.encode())
    assert warnings_of(tmp_path, format="wiki2019zh") == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("own.7z", b"7z\xbc\xaf\x27\x1c..", "is a .7z file, which cannot be read: take its text out first"),
        ("own.bin", pack_zip("in", JSON), "is a .zip file without that suffix; rename it"),
        ("own.txt", gzip.compress(b"x", mtime=0), "is a .gz file without that suffix; rename it"),
        (
            "own.gz",
            gzip.compress(gzip.compress(b"x", mtime=0), mtime=0),
            "is a .gz file inside another compression; unpack the outer one",
        ),
        ("own.txt", "天地\n玄黄\n".encode(), "is no JSON, it begins with '天地'; give the --format that it has"),
    ],
)
def test_files_without_a_record_a_line_are_refused(tmp_path, name, data, message):
    write(tmp_path, **{"a.jsonl": JSON.encode(), name: data})
    source = SourceConfig.model_validate(
        {"name": "own", "inputs": (str(tmp_path),), "format": "jsonl", "text_fields": ("t",)}
    )
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path.name}/{name}: {message}")):
        find_inputs(source)


def test_suffixes_are_read_in_either_case(tmp_path):
    files = {"A.ZIP": pack_zip("in.txt", "天地"), "B.TGZ": pack_tar_gz("in", "玄黄"), "c.GZ": gzip.compress(b"x")}
    write(tmp_path, **files)
    parts = find_parts([tmp_path])
    assert [part.name.partition("/")[2] for part in parts] == ["A.ZIP/in.txt", "B.TGZ", "c.GZ"]
    texts = [b"".join(line for _, line in lines) for part in parts for _, lines in read_streams(part, len)]
    assert texts == ["天地".encode(), "玄黄".encode(), b"x"]


def test_many_small_files_read_line_by_line_warn(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_MANY_FILES", 3)
    write(tmp_path, a=b"t\n\nx\n", b="天地\n".encode())
    assert warnings_of(tmp_path) == []
    write(tmp_path, c="玄黄\n".encode())
    message = "own: each line of 3 small files becomes a document; if each file is one, give --format files"
    assert warnings_of(tmp_path) == [message]
    assert warnings_of(tmp_path, format="files") == []
    write(tmp_path, c=b"x\n" * (32 << 10))
    assert warnings_of(tmp_path) == []
