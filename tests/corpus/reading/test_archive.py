"""Archives read through `find_parts` and `read_streams`, as in a build."""

import gzip
import io
import tarfile
import zipfile

import pytest
import zstandard

from corpus.reading import compression
from corpus.reading.parts import find_parts
from corpus.reading.streams import read_streams

TEXT = "".join(f"第{index}行 {index * index}\n" for index in range(2000)).encode()
MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2", ".tar.zst": "w"}
PACKED = [suffix for suffix in MODES if suffix != ".tar"]


def write_tar(path, members, change=lambda info: info):
    suffix = next(suffix for suffix in sorted(MODES, key=len, reverse=True) if path.name.endswith(suffix))
    with tarfile.open(path, MODES[suffix]) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(change(info), io.BytesIO(data))
    if suffix == ".tar.zst":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    return path


def read(path):
    return {name: [line for _, line in lines] for part in find_parts([path]) for name, lines in read_streams(part, len)}


@pytest.mark.parametrize("suffix", MODES)
def test_members_of_every_tar(tmp_path, suffix):
    path = write_tar(tmp_path / f"a{suffix}", {"./x/one": TEXT, "x/two.gz": gzip.compress(b"a\nb"), "x/.hid": b"x"})
    name = f"a{suffix}"
    with pytest.warns(UserWarning, match="skipped 1 hidden files"):
        streams = read(path)
    one = next(name for name in streams if name.endswith("one"))
    assert streams[one] == TEXT.split(b"\n")[:-1] and streams[f"{name}/x/two.gz"] == [b"a", b"b"]
    assert len(streams) == 2


@pytest.mark.parametrize("suffix", MODES)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_tar_is_named(tmp_path, suffix, kept):
    path = write_tar(tmp_path / f"a{suffix}", {f"m{index}": TEXT[index:] for index in range(4)})
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=rf"a\{suffix}: (cannot be read|damaged|member)|a\{suffix}/m\d: cannot be"):
        read(path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.zst"])
def test_a_tar_that_ends_between_two_members_is_truncated_too(tmp_path, suffix):
    path = write_tar(tmp_path / "a.tar", {"m0": TEXT, "m1": TEXT})
    half = path.read_bytes()[: 512 + -(-len(TEXT) // 512) * 512]
    (tmp_path / f"b{suffix}").write_bytes(half if suffix == ".tar" else zstandard.compress(half))
    with pytest.raises(ValueError, match=rf"b\{suffix}: cannot be read .*damaged or truncated"):
        read(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("suffix", [".tar", ".tar.zst"])
def test_data_after_the_end_of_a_tar_is_refused(tmp_path, suffix):
    """Two archives in one file, and zeros in place of a header: tarfile stops early at both."""
    one = write_tar(tmp_path / "a.tar", {"m0": TEXT, "m1": TEXT}).read_bytes()
    half = 512 + -(-len(TEXT) // 512) * 512
    for data in (one + one, one[:half] + bytes(1024) + one[half:]):
        (tmp_path / f"b{suffix}").write_bytes(data if suffix == ".tar" else zstandard.compress(data))
        with pytest.raises(ValueError, match=rf"b\{suffix}: cannot be read .*data follows the end of the archive"):
            read(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "/etc/passwd: has a path that leads out of the archive"),
        ("x/../../up", r"x/\.\./\.\./up: has a path that leads out of the archive"),
        ("../up", r"\.\./up: has a path that leads out of the archive"),
        ("a.zip", r"/a\.zip: is an archive itself; unpack the outer one first"),
    ],
)
def test_members_with_paths_out_of_the_archive_are_refused(tmp_path, suffix, name, message):
    with pytest.raises(ValueError, match=message):
        read(write_tar(tmp_path / f"a{suffix}", {"ok": b"x", name: b"x"}))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_member_names_need_not_be_utf8(tmp_path, suffix):
    gbk = "维基".encode("gbk").decode(errors="surrogateescape")
    path = write_tar(tmp_path / f"a{suffix}", {gbk: b"x", f"{gbk}/{gbk}.gz": gzip.compress(b"y")})
    streams = read(path)
    assert list(streams.values()) == [[b"x"], [b"y"]]
    assert all(rb"\xbb\xf9" in name.encode() for name in streams)


def test_a_zip_with_names_in_another_encoding_than_declared_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("维", b"x")
    path.write_bytes(path.read_bytes().replace("维".encode(), b"\xff\xff\xff"))
    with pytest.raises(ValueError, match=r"a\.zip: cannot be read as zip, .*can't decode byte 0xff"):
        read(path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_links_are_skipped_with_a_warning(tmp_path, suffix):
    def change(info):
        if info.name == "link":
            info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
        return info

    path = write_tar(tmp_path / f"a{suffix}", {"link": b"", "ok": b"x"}, change)
    with pytest.warns(UserWarning, match=rf"a\{suffix}: skipped 1 links, devices or sparse members"):
        assert read(path) == {f"a{suffix}/ok": [b"x"]}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_empty_repeated_and_missing_members(tmp_path, suffix):
    path = write_tar(tmp_path / f"a{suffix}", {"b": b"", "ok": b"x", "c": b""})
    with pytest.warns(UserWarning, match=rf"{path}: skipped 2 empty files: (\S+/)?b, (\S+/)?c$"):
        assert read(path) == {f"a{suffix}/ok": [b"x"]}
    with pytest.raises(ValueError, match=r"all 2 files are empty: b, c|: empty, probably truncated \(1 in all\)"):
        read(write_tar(tmp_path / f"a{suffix}", {"b": b"", "c": b""}))
    with pytest.raises(ValueError, match=r"b\.gz(: | is )empty, probably truncated"):
        read(write_tar(tmp_path / f"a{suffix}", {"b.gz": b"", "ok": b"x"}))
    with pytest.raises(ValueError, match="the tar holds no files"):
        read(write_tar(tmp_path / f"b{suffix}", {}))
    double = {"one": b"x", "two": b"x"}
    with pytest.raises(ValueError, match="the tar holds two members of the same name"):
        read(write_tar(tmp_path / f"c{suffix}", double, lambda info: info.replace(name="same")))


def test_a_zip_bomb_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10 << 20))
    with pytest.raises(ValueError, match=r"a\.zip/zeros: inflates to more than 200 times its size"):
        find_parts([path])


def test_nothing_is_written_beside_an_archive(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", {"x/one": b"a\nb"})
    assert read(path) == {"a.tar.gz/x/one": [b"a", b"b"]}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_s_members_are_not_kept_in_memory(tmp_path, suffix, monkeypatch):
    kept = []
    take = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda self: (kept.append(len(self.members)), take(self))[1])
    assert len(read(write_tar(tmp_path / f"a{suffix}", {f"m{index}": b"x" for index in range(50)}))) == 50
    assert len(kept) > 50 and max(kept) <= 1
