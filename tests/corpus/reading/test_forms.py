"""Files of another form than the configured one are refused by their first bytes, with what to do."""

import bz2
import gzip

import pytest

from corpus.config import SourceConfig
from corpus.source import find_inputs

HTML = b"\n<!DOCTYPE html><html><head><title>503</title>"
CASES = [
    (
        b"WARC/1.0\r\nWARC-Type: warcinfo\r\n",
        "lines",
        "is a WARC file, not lines; the text of web pages is in WET",
    ),
    (b"WARC/1.1\r\nWARC-Type: response\r\n", "clue", "is a WARC file, not clue"),
    (
        b'<mediawiki xmlns="http://x">\n<siteinfo>',
        "lines",
        "is a dump of MediaWiki with its markup, not lines;",
    ),
    (b'<?xml version="1.0"?>\n<mediawiki>', "jsonl", "is a dump of MediaWiki"),
    (
        b'<doc id="1" url="u" title="t">\nt\n',
        "lines",
        "is WikiExtractor's default form, not lines; give --format",
    ),
    (b'\xef\xbb\xbf<doc id="1">\nt\n', "clue", "is WikiExtractor's default form, not clue"),
    (
        b"<doc>\n<url>http://news.sohu.com</url>\n<docno>1</docno>",
        "lines",
        "is XML, not lines; convert its text",
    ),
    (b"<?xml version='1.0'?><weibo>", "clue", "is XML, not clue"),
    (HTML, "jsonl", "is a page of HTML, perhaps the error of a server, not jsonl; fetch the file again"),
    (b"<html lang=zh>", "lines", "is a page of HTML"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "jsonl",
        "is a pointer to a file of Git LFS, not",
    ),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "files", "fetch the file: git lfs pull"),
    (b"-- MySQL dump 10.13\n", "lines", "is a dump of SQL, not lines"),
    (b"%PDF-1.5\n", "files", "is a .pdf file, which cannot be read: take its text out first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "lines", "is a .doc file, which cannot be read"),
    ("天地\n".encode("utf-16-be").join([b"\xfe\xff", b""]), "lines", "is UTF-16, not utf-8; give --encoding utf-16"),
    ("天地\n".encode("utf-32"), "lines", "is UTF-32, which is not read; convert it: iconv -f utf-32 -t utf-8 FILE"),
]


def find(tmp_path, data, format, **more):
    for name in [path.name for path in tmp_path.iterdir()]:
        (tmp_path / name).unlink()
    fields = {"text_fields": ("t",)} if format == "jsonl" else {}
    name = {b"\x1f\x8b": "a.gz", b"BZ": "a.bz2"}.get(data[:2], "a.txt")
    (tmp_path / name).write_bytes(data)
    values = {"name": "s", "format": format, "inputs": (str(tmp_path / name),)} | fields | more
    return find_inputs(SourceConfig.model_validate(values))


@pytest.mark.parametrize(("data", "format", "message"), CASES)
def test_another_form_is_refused_through_any_compression(tmp_path, data, format, message):
    for packed in (data, gzip.compress(data), bz2.compress(data)):
        with pytest.raises(ValueError, match=r"^a\.(txt|gz|bz2): is ") as caught:
            find(tmp_path, packed, format)
        assert message in str(caught.value)


def test_carriage_returns_alone_are_no_newlines(tmp_path):
    for data in (b"a\rb\rc", b"x" * 3000 + b"\r" + b"y" * 100_000):
        with pytest.raises(ValueError, match=r"a\.txt: its lines end with carriage returns alone; convert it: tr"):
            find(tmp_path, data, "lines")
        assert find(tmp_path, data, "files")
    for data in (b"a\r", b"a\r\nb\rc\r\n", b"a\rb" + b"x" * 3000 + b"\n"):
        assert find(tmp_path, data, "lines")


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (HTML, "files"),
        (b"<doc id", "lines"),
        ("WARC 是一种格式\n".encode(), "lines"),
        (b"<html", "lines"),
        ("-- 引言\n".encode(), "lines"),
    ],
)
def test_text_about_them_is_text(tmp_path, data, format):
    if data != b"<html":
        assert len(find(tmp_path, data, format)) == 1
