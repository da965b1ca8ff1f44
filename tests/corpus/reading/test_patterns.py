"""Inputs that are patterns."""

from pathlib import Path

import fsspec
import pytest

from corpus.reading.parts import find_parts, would_contain


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "a.gz", "x/c.txt", "x/y/d.txt", ".hidden.txt", "z[1]/e.txt", "odd*.txt", "[k].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["[k].txt", "a.txt", "b.txt", "odd*.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[b-z].txt", ["b.txt"]),
        ("*/*.txt", ["x/c.txt", "z[1]/e.txt"]),
        ("**/*.txt", ["[k].txt", "a.txt", "b.txt", "odd*.txt", "x/c.txt", "x/y/d.txt", "z[1]/e.txt"]),
        ("z[1]/*", ["e.txt"]),
        ("x*", ["x/c.txt", "x/y/d.txt"]),
        ("odd*.txt", ["odd*.txt"]),
        ("[k].txt", ["[k].txt"]),
        ("z[1]", ["z[1]/e.txt"]),
    ],
)
def test_patterns_match_sorted_and_real_names_come_first(folder, pattern, names):
    for text in (pattern, f"{folder}/{pattern}"):
        assert [part.name for part in find_parts([text])] == names
    assert all(Path(part.path).is_file() for part in find_parts([pattern]))


def test_files_that_several_inputs_match_are_read_once(folder):
    assert len(find_parts(["*.txt", "a.txt", str(folder / "a.txt")])) == 4


@pytest.mark.parametrize("pattern", ["*.zip", "nowhere/*.txt", "x/[!c].txt"])
def test_a_pattern_that_matches_nothing_is_refused(folder, pattern):
    with pytest.raises(ValueError, match=r": no file or folder in .* matches this pattern$"):
        find_parts([pattern])


def test_urls_take_patterns_too():
    memory = fsspec.filesystem("memory")
    for name in ("/set/a.txt", "/set/x/b.txt", "/set/c.gz"):
        memory.pipe(name, b"x")
    try:
        assert [part.name for part in find_parts(["memory://set/*.txt"])] == ["a.txt"]
        with pytest.raises(ValueError, match=r"memory://set/\*\.zip: no file matches this pattern"):
            find_parts(["memory://set/*.zip"])
    finally:
        memory.rm("/set", recursive=True)


def test_outputs_that_a_pattern_would_match_are_known(folder):
    assert would_contain("*", folder / "out") and would_contain("**/*", folder / "x" / "out" / "corpus")
    assert would_contain("x", folder / "x" / "out") and would_contain("?", folder / "o" / "out")
    assert not would_contain("*.txt", folder / "out") and not would_contain("x/*", folder / "out")
    assert not would_contain("memory://x/*", folder) and not would_contain("a.txt", folder / "out")
