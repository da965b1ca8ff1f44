import gzip
import json
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.building import plan as plans
from corpus.building.plan import build_plan, load_plan, save_plan
from corpus.config import BuildConfig
from corpus.reading.formats import read_documents
from corpus.reading.parts import find_parts
from corpus.reading.streams import read_streams
from corpus.shards.manifest import build_tokenizer_record
from corpus.vocabulary.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(wordpiece):
    return build_tokenizer_record("t", load_tokenizer(str(wordpiece)))


def config(*paths, format="lines", **more) -> BuildConfig:
    source = {"name": "s", "format": format, "inputs": list(map(str, paths))}
    return BuildConfig.model_validate_json(json.dumps({"sources": [source], "tokenizer": "t", "output": "o", **more}))


def read_units(plan, format):
    """Texts of every unit, each read alone."""
    units = []
    for unit in plan.units:
        texts = []
        for segment in unit.segments:
            for name, lines in read_streams(segment.part, len, segment.start, segment.end):
                texts += [item.text for item in read_documents(format, lines, name)]
        units.append(texts)
    return units


@settings(max_examples=60)
@given(st.lists(st.text("天地 \n\r", max_size=12), max_size=30), st.integers(8, 60), st.sampled_from(["lines", "clue"]))
@pytest.mark.filterwarnings("ignore:.*lines without a blank line")
def test_units_hold_every_document_once_and_whole(tmp_path_factory, tokenizer, pieces, unit_bytes, format):
    path = tmp_path_factory.mktemp("plan") / "a"
    path.write_bytes("\n".join(["天", "", *pieces, "", "地", ""]).encode())
    ((_, lines),) = read_streams(find_parts([path])[0], len)
    whole = [item.text for item in read_documents(format, lines, "a")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "UNIT_BYTES", unit_bytes)
        plan = build_plan(config(path, format=format), tokenizer)
        units = read_units(plan, format)
    assert [text for texts in units for text in texts] == whole
    edges = [(segment.start, segment.end) for unit in plan.units for segment in unit.segments]
    assert [start for start, _ in edges] == [0, *(end for _, end in edges[:-1])] and edges[-1][1] == path.stat().st_size


def test_large_files_are_split_and_small_ones_share_a_unit(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 1000)
    (tmp_path / "big").write_bytes(b"0123456\n" * 1000)
    for index in range(100):
        (tmp_path / f"small{index:02d}").write_bytes(b"x\n" * 20)
    plan = build_plan(config(tmp_path), tokenizer)
    sizes = [unit.num_bytes for unit in plan.units]
    assert sum(sizes) == 12_000 and sizes[:8] == [1000] * 8 and max(sizes) <= 1000
    assert all(size >= 250 for size in sizes[:-1]) and 4 < len(sizes[8:]) < 17
    assert sum(len(unit.segments) for unit in plan.units[8:]) == 100


def test_an_endless_line_is_never_split(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 100)
    (tmp_path / "a").write_bytes(b"x" * 1050 + b"\ny\nz\n")
    assert read_units(build_plan(config(tmp_path), tokenizer), "lines") == [["x" * 1050], ["y", "z"]]


def test_a_file_that_is_one_document_is_never_split(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 16)
    (tmp_path / "a").write_bytes(b"0123456\n" * 8)
    (tmp_path / "b").write_bytes(b"89\n")
    units = read_units(build_plan(config(tmp_path, format="files"), tokenizer), "files")
    assert units == [["\n".join(["0123456"] * 8)], ["89"]]


def test_large_packed_inputs_warn_once_a_source(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(plans, "_LARGE_BYTES", 1 << 26)  # which the message calls 1 GiB

    def plan(**sizes):
        folder = tmp_path / "_".join(sizes)
        folder.mkdir()
        for name, size in sizes.items():
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(b'{"t": "x"}\n'))  # its first line is looked at
            os.truncate(folder / f"{name}.jsonl.gz", size)  # a sparse file
        source = {"name": "news", "format": "jsonl", "text_fields": ["t"], "inputs": [str(folder)]}
        return build_plan(config(sources=[source]), tokenizer)

    with pytest.warns(UserWarning) as caught:
        plan(small=1 << 26, big=3 << 26, bigger=9 << 26)
    (message,) = (str(warning.message) for warning in caught)
    assert message == (
        "news: inputs above 1 GiB that cannot be split: 2, the largest small_big_bigger/bigger.jsonl.gz with 0.6 GB; "
        "each is read by one core and from its beginning after a stop: split or unpack them to use more cores"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(plan(alone=1 << 26).units) == 1


def test_places_in_later_units_count_from_a_byte(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 16)
    (tmp_path / "a").write_bytes(b"0123456\n" * 8)
    plan = build_plan(config(tmp_path / "a"), tokenizer)
    segment = plan.units[1].segments[0]
    ((name, lines),) = read_streams(segment.part, len, segment.start, segment.end)
    first = next(iter(read_documents("lines", lines, name)))
    assert first.place == "a@16:1"


def test_a_units_key_covers_all_that_determines_its_documents(tmp_path, tokenizer):
    (tmp_path / "a").write_bytes(b"x\n")
    key = build_plan(config(tmp_path / "a"), tokenizer).key(0)
    assert build_plan(config(tmp_path / "a", about="other", output="p"), tokenizer).key(0) == key
    test = {"name": "t", "format": "lines", "inputs": [str(tmp_path / "a")]}
    others = [
        config(tmp_path / "a", format="clue"),
        config(tmp_path / "a", near_duplicates={}),
        config(tmp_path / "a", decontamination=[test]),
    ]
    keys = {build_plan(other, tokenizer).key(0) for other in others}
    (tmp_path / "a").write_bytes(b"yy\n")
    keys.add(build_plan(config(tmp_path / "a"), tokenizer).key(0))
    assert len(keys) == 4 and key not in keys


def test_only_requested_units_are_loaded(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(b"x\n")
    plan = build_plan(config(*(tmp_path / name for name in "abc")), tokenizer)
    save_plan(plan, tmp_path)
    lines = (tmp_path / "plan.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4 == 1 + len(plan.units)
    lines[1], lines[3] = (b"?" * (len(line) - 1) + b"\n" for line in (lines[1], lines[3]))
    (tmp_path / "plan.jsonl").write_bytes(b"".join(lines))
    found = load_plan(tmp_path, [1])
    assert found.units[1] == plan.units[1] and found.key(1) == plan.key(1)
    assert (
        [unit.segments for unit in found.units[::2]]
        == [(), ()]
        == [unit.segments for unit in load_plan(tmp_path, ()).units[::2]]
    )
    with pytest.raises(ValueError, match=r"plan\.jsonl: is not the plan of a build"):
        load_plan(tmp_path)


def test_a_saved_plan_loads_unchanged(tmp_path, tokenizer):
    (tmp_path / "a").write_bytes(b"x\n")
    plan = build_plan(config(tmp_path / "a"), tokenizer)
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    before = (tmp_path / "plan.jsonl").stat()
    save_plan(plan, tmp_path)
    assert (tmp_path / "plan.jsonl").stat() == before
    (tmp_path / "plan.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"plan\.jsonl: is not the plan of a build; make one with --plan"):
        load_plan(tmp_path)
    with pytest.raises(ValueError, match=r"plan\.jsonl: is not the plan of a build"):
        load_plan(Path(tmp_path / "nowhere"))
