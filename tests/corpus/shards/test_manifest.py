import json
import shutil

import numpy as np
import pytest

from corpus.shards.manifest import FILE_NAME, corpus_fingerprint, load_manifest, save_manifest


@pytest.fixture
def folder(corpus_folder, tmp_path):
    return shutil.copytree(corpus_folder, tmp_path / "copy")


def change(folder, edit):
    path = folder / FILE_NAME
    state = json.loads(path.read_text())
    edit(state)
    path.write_text(json.dumps(state))


def test_saving_and_loading_changes_nothing(folder):
    manifest = load_manifest(folder)
    assert manifest == load_manifest(folder / FILE_NAME) and manifest.folder == folder
    before = (folder / FILE_NAME).read_bytes()
    save_manifest(manifest, folder)
    assert (folder / FILE_NAME).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        FILE_NAME,
        *(shard.name for shard in manifest.shards),
    ]


def test_counts_balance(folder, documents):
    manifest = load_manifest(folder)
    assert manifest.totals.documents_in == len(documents)
    assert manifest.totals.documents == sum(manifest.blocks.documents) == len(documents)
    assert manifest.totals.characters == sum(map(len, documents)) == manifest.totals.tokens
    assert manifest.totals.unk_tokens == 0


def test_fingerprint_is_of_the_rows_only(folder):
    manifest = load_manifest(folder)
    renamed = manifest.tokenizer.model_copy(update={"name": "elsewhere"})
    assert corpus_fingerprint(renamed, manifest.blocks) == manifest.fingerprint
    other = manifest.tokenizer.model_copy(update={"fingerprint": "0"})
    moved = manifest.blocks.model_copy(update={"hash": manifest.blocks.hash[::-1]})
    assert corpus_fingerprint(other, manifest.blocks) != manifest.fingerprint
    assert corpus_fingerprint(manifest.tokenizer, moved) != manifest.fingerprint


def test_any_changed_byte_of_the_file_is_found(folder):
    """The digest finds what nothing else checks: a letter of a name."""
    path = folder / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"tiny"', b'"tinx"'))
    with pytest.raises(ValueError, match=r"manifest\.json: the digest does not match the contents"):
        load_manifest(folder)
    random = np.random.default_rng(3)
    for place in random.integers(0, len(whole), 50).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"manifest\.json|shard"):
            load_manifest(folder)


def test_missing_and_broken_files_are_named(folder, tmp_path, monkeypatch):
    message = r"manifest\.json: there is no manifest; build the corpus with launch/build_corpus\.py"
    for path in (tmp_path, "memory://nowhere"):
        with pytest.raises(ValueError, match=f"{message}$"):
            load_manifest(path)
    monkeypatch.chdir(tmp_path)
    seen_from = rf"\(relative paths are relative to the working folder {tmp_path}\)"
    with pytest.raises(ValueError, match=f"^data/corpus/{message} {seen_from}$"):
        load_manifest("data/corpus")
    (folder / FILE_NAME).write_text((folder / FILE_NAME).read_text()[:-9])
    with pytest.raises(ValueError, match=r"manifest\.json: not JSON: "):
        load_manifest(folder)
    for text in ("[" * 100_000, "9" * 5_000):
        (folder / FILE_NAME).write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json: not JSON: (maximum|Exceeds)"):
            load_manifest(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format_version": 2}'])
def test_other_versions_are_refused(folder, content):
    (folder / FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match=r"format_version is (None|2), but this code reads 1"):
        load_manifest(folder)


def test_shards_are_checked_before_anything_is_read(folder):
    path = folder / "shard-00001.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    message = rf"shard-00001\.bin: the shard has {len(whole) - 1} bytes, but the manifest says {len(whole)}"
    with pytest.raises(ValueError, match=message):
        load_manifest(folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.bin: the shard is missing"):
        load_manifest(folder)


def test_shards_outside_the_folder_are_refused(folder):
    change(folder, lambda state: state["shards"][0].update(name="../copy/shard-00000.bin"))
    with pytest.raises(ValueError, match="a shard must be in the folder of its manifest"):
        load_manifest(folder)


def drop_last_hash(state):
    state["blocks"]["hash"].pop()


def change_hash(state):
    state["blocks"]["hash"][2] = "0" * 16


def lose_a_document(state):
    state["sources"][0]["documents_in"] += 1


def miscount_totals(state):
    state["totals"]["tokens"] += 1


def name_no_shard(state):
    state["blocks"]["shard"][1] = 99


def hold_less_than_nothing(state):
    state["blocks"]["length"][1] = -1


def mark_with_no_id(state):
    state["tokenizer"]["sep_token_id"] = 2**40


def leave_the_shard(state):
    state["blocks"]["offset"][1] = 10**9


def give_blocks_to_another_source(state):
    empty = {"documents_in": 0, "documents": 0, "characters": 0, "tokens": 0, "rejected": {}, "examples": {}}
    state["sources"].append({**state["sources"][0], **empty, "name": "other"})
    state["blocks"]["source"][0] = 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop_last_hash, "columns of the block table must have the same length"),
        (change_hash, "the fingerprint does not match the contents"),
        (lose_a_document, "tiny: documents_in is not the sum of documents and rejected"),
        (miscount_totals, "the totals are not the sums over sources and over blocks"),
        (name_no_shard, "block 1 refers to a shard or source that does not exist"),
        (hold_less_than_nothing, "block 1 refers to a shard or source that does not exist, or is empty"),
        (
            mark_with_no_id,
            "the id of a special token, or one without a piece, is outside the vocabulary, or does not fit uint16",
        ),
        (leave_the_shard, r"block 1 is outside shard-0000\d\.bin"),
        (give_blocks_to_another_source, "tiny: its documents and tokens are not the sums over its blocks"),
        (lambda state: state.update(extra=1), r"is not a manifest:\nextra: unknown key"),
        (lambda state: state["totals"].update(tokens="7"), "totals.tokens: Input should be a valid integer"),
    ],
)
def test_contradictions_are_named(folder, edit, message):
    change(folder, edit)
    with pytest.raises(ValueError, match=message):
        load_manifest(folder)
