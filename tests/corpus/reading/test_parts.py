import gzip
import os
import re
import zipfile
from pathlib import Path

import fsspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.reading import parts, streams
from corpus.reading.parts import find_parts
from corpus.reading.streams import check_unchanged, read_stored, read_streams

TEXT = "".join(f"第{index}行 {index * index}\n" for index in range(5000)).encode()
LINES = TEXT.split(b"\n")[:-1]
# Incompressible enough that a cut anywhere removes data.
STORED = {".txt": TEXT, ".gz": gzip.compress(TEXT), ".zst": zstandard.compress(TEXT)}


def read_lines(part, on_bytes) -> list[tuple[int, bytes]]:
    return [line for _, lines in read_streams(part, on_bytes) for line in lines]


def lines_of(path: Path) -> list[bytes]:
    return [line for part in find_parts([path]) for _, line in read_lines(part, len)]


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("suffix", STORED)
def test_every_compression_gives_the_same_lines(tmp_path, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(STORED[suffix])
    assert lines_of(path) == LINES
    assert lines_of(write_zip(tmp_path / "text.zip", {f"deep/text{suffix}": STORED[suffix]})) == LINES


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_all_concatenated_frames_are_read(tmp_path, suffix):
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    path = tmp_path / f"text{suffix}"
    path.write_bytes(b"".join(compress(line + b"\n") for line in LINES[:300]) + b"\0" * 512)
    assert lines_of(path) == LINES[:300]


def test_frames_end_at_any_boundary_of_the_chunks(tmp_path, monkeypatch):
    path = tmp_path / "text.zst"
    path.write_bytes(zstandard.compress(b"a\nb\n") + zstandard.compress(b"c\n"))
    for size in range(1, 40):
        monkeypatch.setattr(streams, "CHUNK_BYTES", size)
        assert lines_of(path) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [1, 3, 0.3, 0.9, -9, -1])
def test_truncation_is_found_at_every_byte(tmp_path, suffix, kept):
    data = STORED[suffix]
    path = tmp_path / f"text{suffix}"
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=rf"text\{suffix}: cannot be read to its end"):
        lines_of(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_data_that_is_not_what_the_name_says(tmp_path, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(TEXT)
    with pytest.raises(ValueError, match=rf"text\{suffix}: cannot be read to its end"):
        lines_of(path)


def test_a_truncated_zip_is_named(tmp_path):
    path = write_zip(tmp_path / "wiki.zip", {"a": TEXT})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"wiki\.zip: cannot be read as zip, probably truncated"):
        find_parts([path])


def test_a_damaged_zip_member_is_named(tmp_path):
    path = write_zip(tmp_path / "wiki.zip", {"wiki_zh/AA": TEXT})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"wiki\.zip/wiki_zh/AA: cannot be read to its end"):
        lines_of(path)


def test_a_zip_is_opened_once_until_it_changes(tmp_path, monkeypatch):
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, file):
            opened.append(file)
            super().__init__(file)

    monkeypatch.setattr(streams, "ZipFile", Counted)
    path = write_zip(tmp_path / "a.zip", {f"m{index}": b"x" for index in range(100)})
    assert lines_of(path) == [b"x"] * 100 and len(opened) == 1
    write_zip(path, {f"m{index}": b"yy" for index in range(100)})
    assert lines_of(path) == [b"yy"] * 100 and len(opened) == 2


def test_encrypted_members_are_refused(tmp_path):
    path = write_zip(tmp_path / "secret.zip", {"b": b"x"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the central directory
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"secret\.zip/b: is encrypted"):
        find_parts([path])


def test_missing_and_empty_inputs_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        find_parts([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"the folder holds no files"):
        find_parts([tmp_path])
    (tmp_path / "void").touch()
    with pytest.raises(ValueError, match=rf"^{tmp_path}: empty, probably truncated \(1 in all\)$"):
        find_parts([tmp_path])
    with pytest.raises(ValueError, match=r"none\.zip: the zip holds no files"):
        find_parts([write_zip(tmp_path / "none.zip", {})])


def test_empty_files_and_members_among_others_are_skipped_with_a_warning(tmp_path):
    (tmp_path / "data").mkdir()
    for index in range(11):
        (tmp_path / "data" / f"{index:02}").touch()
    write_zip(tmp_path / "data" / "a.zip", {"void": b"", "ok": b"x"})
    listed = ", ".join(f"data/{index:02}" for index in range(10))
    with pytest.warns(UserWarning, match=rf"data: skipped 12 empty files: {listed}, \.\.\.$"):
        assert [part.name for part in find_parts([tmp_path / "data"])] == ["data/a.zip/ok"]


def test_all_empty_files_of_packed_kinds_are_refused_at_once(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("one", "two", "data/ok.gz", "data/cut.gz", "data/cut.zip", "data/void"):
        (tmp_path / name).write_bytes(b"x" if "ok" in name else b"")
    path = write_zip(tmp_path / "void.zip", {"b": b"", "c": b""})
    listed = f"{tmp_path}/one, {tmp_path}/two, {path}, data/cut.gz, data/cut.zip"
    with pytest.raises(ValueError, match=rf"^{listed}: empty, probably truncated \(5 in all\)$"):
        find_parts([tmp_path / "one", tmp_path / "two", path, tmp_path / "data"])


def test_links_and_special_files_in_a_folder_are_reported(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"x")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="up: skipped, links to folders are not followed"):
        assert [part.name for part in find_parts([tmp_path / "data"])] == ["data/a"]
    (tmp_path / "data" / "up").unlink()
    (tmp_path / "data" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="gone: a broken link or not a regular file"):
        find_parts([tmp_path / "data"])


def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch):
    def walk(root, onerror):
        onerror(PermissionError(13, "Permission denied", f"{root}/locked"))
        yield from ()

    monkeypatch.setattr(parts.os, "walk", walk)
    with pytest.raises(ValueError, match="locked: the folder cannot be listed: Permission denied"):
        find_parts([tmp_path])


def test_paths_that_are_not_utf8_are_refused_also_behind_a_link(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + "/维基".encode("gbk")))
    folder.mkdir()
    (folder / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, folder / "a", tmp_path / "link"):
        with pytest.raises(ValueError, match=r"xbb\\xf9(/a)?: the path is not UTF-8; rename the file"):
            find_parts([path])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_zip_members_of_one_name_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a": b"x"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a", b"y")
    with pytest.raises(ValueError, match=r"a\.zip: the zip holds two members of the same name"):
        find_parts([path])


def test_order_and_names_do_not_depend_on_how_inputs_are_given(tmp_path):
    for name in ("wiki_zh/AB/wiki_00", "wiki_zh/AA/wiki_01", "wiki_zh/AA/wiki_00", "other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x\n")
    inputs = [tmp_path / "wiki_zh", tmp_path / "other"]
    parts = find_parts(inputs)
    assert parts == find_parts(inputs[::-1]) == find_parts([*inputs, inputs[1]])
    names = ["other", "wiki_zh/AA/wiki_00", "wiki_zh/AA/wiki_01", "wiki_zh/AB/wiki_00"]
    assert [part.name for part in parts] == names


def test_hidden_files_are_skipped_with_a_warning(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    with pytest.warns(UserWarning, match="skipped 1 hidden files"):
        assert len(find_parts([tmp_path])) == 1
    path = write_zip(tmp_path / "mac.zip", {"a": b"x", "__MACOSX/._a": b"junk"})
    with pytest.warns(UserWarning, match=r"mac\.zip: skipped 1 hidden files"):
        assert [part.member for part in find_parts([path])] == ["a"]


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=60).map(lambda data: data.replace(b"x", b"\n")), st.integers(1, 20))
def test_lines_do_not_depend_on_chunks(tmp_path_factory, data, size):
    path = tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_FILE_CHUNK_BYTES", size)
        numbered = read_lines(find_parts([path])[0], len)
    whole = data.split(b"\n")
    expected = [re.sub(rb"\A(\xef\xbb\xbf)+", b"", line) for line in (whole if whole[-1] else whole[:-1])]
    assert [line for _, line in numbered] == expected
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))


def test_byte_order_marks_at_the_head_of_lines_are_dropped(tmp_path):
    path = tmp_path / "bom"
    mark = b"\xef\xbb\xbf"
    path.write_bytes(mark + b"a\n" + mark + mark + b"b\n\nc" + mark + b"d\n" + mark)
    assert lines_of(path) == [b"a", b"b", b"", b"c" + mark + b"d", b""]


def test_an_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.reading.lines.MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "bomb.zst"
    path.write_bytes(zstandard.compress(b"ok\n" + b"x" * (40 << 20)))
    with pytest.raises(ValueError, match=r"bomb\.zst: a line at or after line 1 is longer than 1 MiB"):
        lines_of(path)


def test_all_stored_bytes_are_reported(tmp_path):
    path = tmp_path / "text.zst"
    path.write_bytes(STORED[".zst"])
    part = find_parts([path])[0]
    seen: list[bytes] = []
    read_lines(part, seen.append)
    assert b"".join(seen) == b"".join(read_stored(part)) == STORED[".zst"]


def test_urls_are_read_like_files(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/x/b.gz", STORED[".gz"])
    memory.pipe("/set/a.txt", TEXT)
    try:
        parts = find_parts(["memory://set"])
        assert [part.name for part in parts] == ["set/a.txt", "set/x/b.gz"]
        assert [[line for _, line in read_lines(part, len)] for part in parts] == [LINES, LINES]
        assert b"".join(read_stored(parts[0], 10, 30)) == TEXT[10:30]
        assert [part.name for part in find_parts(["memory://set/a.txt"])] == ["a.txt"]
    finally:
        memory.rm("/set", recursive=True)
    with pytest.raises(ValueError, match=r"memory://set/a\.txt: cannot be opened"):
        find_parts(["memory://set/a.txt"])
    with pytest.raises(ValueError, match=r"nosuch://x: cannot be opened: Protocol not known: nosuch"):
        find_parts(["nosuch://x"])


def test_a_changed_file_is_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one\ntwo\n")
    (part,) = find_parts([path])
    check_unchanged(part)
    path.write_bytes(b"one\n")
    with pytest.raises(ValueError, match="a: has changed since the build began; run it again"):
        check_unchanged(part)
    with pytest.raises(ValueError, match="a: cannot be read to its end: 4 bytes are missing"):
        read_lines(part, len)
