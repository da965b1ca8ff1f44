import json

import numpy as np
import pytest

from corpus.building import match_step
from corpus.building import plan as plans
from corpus.building.builder import build_corpus, match_corpus, plan_corpus, run_unit
from corpus.building.match_step import load_drops
from corpus.building.read_step import read_unit
from corpus.building.work_folder import work_folder
from corpus.config import BuildConfig
from corpus.document import Reason
from tests.corpus.conftest import NO_CHARACTER_RULES

random = np.random.default_rng(3)


def text(length: int) -> str:
    return "".join(map(chr, (0x4E00 + random.integers(3000, size=length)).tolist()))


def edit(original: str, num_edits: int) -> str:
    codes = np.array(list(original))
    codes[random.choice(len(codes), num_edits, replace=False)] = list(text(num_edits))
    return "".join(codes)


@pytest.fixture
def drops_of(tmp_path, wordpiece, monkeypatch):
    """Reads documents in units of about ten, compares them, and gives what is dropped by number of document."""

    def run(documents, near=True, num_ranges=1):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "a").write_text("\n".join(documents), encoding="utf-8")
        state = {
            "sources": [
                {"name": "s", "format": "lines", "inputs": [str(folder / "a")], "cleaning": NO_CHARACTER_RULES}
            ],
            "tokenizer": str(wordpiece),
            "output": str(folder / "out"),
            "near_duplicates": {} if near else None,
        }
        config = BuildConfig.model_validate_json(json.dumps(state))
        monkeypatch.setattr(plans, "UNIT_BYTES", 10 * len("".join(documents).encode()) // len(documents))
        monkeypatch.setattr(
            match_step, "MAX_JOIN_BYTES", len(documents) * match_step._JOIN_BYTES_PER_DOCUMENT // num_ranges
        )
        plan, _ = plan_corpus(config)
        for index in reversed(range(len(plan.units))):
            run_unit(config, read_unit, index)
        match_corpus(config)
        dropped, number = {}, 0
        for index in range(len(plan.units)):
            record = json.loads((work_folder(config) / f"read-{plan.key(index)}/record.json").read_text())
            dropped |= {number + at: reason for at, reason in load_drops(work_folder(config), index).items()}
            number += record["tally"]["documents"]
        assert number == len(documents) and len(plan.units) > 2
        return dropped

    return run


def test_the_first_of_equal_documents_is_kept_wherever_they_are(drops_of):
    documents = [text(20) for _ in range(60)]
    for copy, original in [(5, 4), (31, 4), (59, 4), (40, 39)]:
        documents[copy] = documents[original]
    expected = dict.fromkeys((5, 31, 59, 40), Reason.DUPLICATE)
    assert drops_of(documents, near=False) == drops_of(documents, near=False, num_ranges=7) == expected


def test_near_duplicates_are_dropped_and_others_kept(drops_of):
    documents = [text(300) for _ in range(60)]
    documents[7] = edit(documents[2], 3)
    documents[50] = edit(documents[2], 3)
    documents[33] = documents[2]
    documents[41] = documents[20][:150] + text(150)  # half of it: J = 1/3
    expected = {7: Reason.NEAR_DUPLICATE, 33: Reason.DUPLICATE, 50: Reason.NEAR_DUPLICATE}
    assert drops_of(documents) == drops_of(documents, num_ranges=5) == expected


def test_candidates_that_are_not_similar_are_kept(drops_of, monkeypatch):
    """All documents in one bucket of every band: only the true similarity decides."""
    monkeypatch.setattr(
        "corpus.building.read_step.build_bands", lambda *shingles: np.ones((len(shingles[1]) - 1, 14), np.uint64)
    )
    documents = [text(100) for _ in range(40)]
    documents[30] = edit(documents[29], 1)
    documents[35] = edit(documents[0], 1)
    assert drops_of(documents) == dict.fromkeys((30, 35), Reason.NEAR_DUPLICATE)


def test_short_documents_are_near_only_if_equal(drops_of):
    documents = ["天地", "天地玄", "天地", "玄黄", *(text(30) for _ in range(30))]
    assert drops_of(documents) == {2: Reason.DUPLICATE}


def test_units_must_be_read_and_matched_first(tmp_path, wordpiece):
    (tmp_path / "a").write_text("天\n地")
    state = {
        "sources": [{"name": "s", "format": "lines", "inputs": [str(tmp_path / "a")], "cleaning": NO_CHARACTER_RULES}],
        "tokenizer": str(wordpiece),
        "output": str(tmp_path / "out"),
    }
    config = BuildConfig.model_validate_json(json.dumps(state))
    plan_corpus(config)
    with pytest.raises(ValueError, match="unit 0 is not read yet; run --read-unit 0"):
        match_corpus(config)
    with pytest.raises(ValueError, match=r"drops-00000\.bin: does not exist; find duplicates first, with --match"):
        load_drops(work_folder(config), 0)


def test_documents_with_the_same_id_warn_and_are_kept(tmp_path, wordpiece):
    """In one unit or in two; another source may use the same ids, and a document without one has none to share."""
    ids = {"one": [1, 2, 1, None, None, 3, 1], "two": [3, 1, 2]}
    sources = []
    for name, numbers in ids.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"k": number, "t": text(9)}) for number in numbers))
        fields = {"format": "jsonl", "text_fields": ["t"], "id_field": "k"}
        sources.append({"name": name, "inputs": [str(path)], **fields})
    state = {"sources": sources, "tokenizer": str(wordpiece), "output": str(tmp_path / "out")}
    with pytest.warns(UserWarning) as told:
        manifest, _ = build_corpus(BuildConfig.model_validate_json(json.dumps(state)), 1)
    (message,) = (str(warning.message) for warning in told)
    labels = "one.jsonl:3 (id 1), one.jsonl:7 (id 1)"
    assert message == f"one: 2 documents have the id of an earlier one, and are kept, e.g. {labels}"
    assert manifest.totals.documents == manifest.totals.documents_in == 10
