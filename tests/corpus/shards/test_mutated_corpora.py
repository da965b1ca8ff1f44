"""Mutated manifests, shards and corpus configs: refused by an error that names the file, or read as if undamaged."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from corpus.config import load_config
from corpus.rows.stream import RowStream
from corpus.shards import block
from corpus.shards.manifest import Manifest, _digest, corpus_fingerprint, load_manifest
from corpus.shards.shard import read_block
from tests.mutations import BYTE_MUTATIONS, JSON_MUTATIONS, limited_memory, limited_time

ROOT = Path(__file__).parents[3]
Outcomes = Counter[tuple[str, str, str]]  # what was mutated, how, and the outcome


def rows(manifest: Manifest) -> np.ndarray:
    stream = RowStream(manifest, 16, 17)
    return stream.rows(np.arange(stream.rows_per_epoch))


def check_refusal(error: ValueError, *names: str) -> str:
    assert any(name in str(error) for name in names), f"names no file: {str(error)[:500]}"
    assert len(str(error)) < 100_000, "a message is to be read"
    return "refused"


def check_manifest(copy: Path, sound: np.ndarray, mutant: bytes) -> str:
    (copy / "manifest.json").write_bytes(mutant)
    try:
        with limited_time(), limited_memory():
            came = rows(load_manifest(copy))
    except ValueError as error:
        return check_refusal(error, str(copy))
    assert np.array_equal(came, sound), "other rows than those of the undamaged manifest"
    return "harmless"


def resealed(mutant: bytes) -> bytes | None:
    """The mutant with digest and fingerprint made to match it."""
    try:
        state = json.loads(mutant)
        manifest = Manifest.model_validate_json(json.dumps({key: state[key] for key in state if key != "digest"}))
        state["fingerprint"] = corpus_fingerprint(manifest.tokenizer, manifest.blocks)
        del state["digest"]
        return json.dumps(state | {"digest": _digest(state)}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def check_resealed(copy: Path, mutant: bytes) -> str:
    """It may describe an impossible tokenizer, but never more blocks than its shards hold."""
    (copy / "manifest.json").write_bytes(mutant)
    try:
        with limited_time(), limited_memory():
            manifest = load_manifest(copy)
            rows(manifest)
    except ValueError as error:
        return check_refusal(error, str(copy))
    return "harmless"


def check_shard(copy: Path, name: str, sound: np.ndarray, mutant: bytes) -> str:
    (copy / name).write_bytes(mutant)
    try:
        with limited_time(), limited_memory():
            came = rows(load_manifest(copy))
    except ValueError as error:
        assert "bytes, but the manifest says" in str(error) or ": block " in str(error), error
        return check_refusal(error, name)
    assert np.array_equal(came, sound), "other rows than those of the undamaged shard"
    return "harmless"


def check_frame(manifest: Manifest, index: int, mutant: bytes) -> str:
    """A damaged block without its checksum: no crash, and no result of another size."""
    table = manifest.blocks
    try:
        with limited_time(), limited_memory():
            came = block.unpack(mutant, manifest.dtype, table.tokens[index], table.documents[index])
    except ValueError:
        return "refused"
    assert len(came.ids) == table.tokens[index] and len(came.lengths) == table.documents[index]
    return "harmless"


def check_config(path: Path, mutant: bytes) -> str:
    path.write_bytes(mutant)
    try:
        with limited_time(), limited_memory():
            config = load_config(path, {}, {})
    except ValueError as error:
        return check_refusal(error, path.name)
    json.dumps(config.model_dump(mode="json"), allow_nan=False)
    return "harmless"


def fuzz(corpus_folder: Path, tmp_path: Path, rounds: int) -> Outcomes:
    rng, outcomes = random.Random(17), Outcomes()
    copy = Path(shutil.copytree(corpus_folder, tmp_path / "copy"))
    sound_manifest = (copy / "manifest.json").read_bytes()
    manifest = load_manifest(copy)
    sound = rows(manifest)
    for _ in range(rounds):
        for how, mutate in JSON_MUTATIONS.items():
            mutant = mutate(sound_manifest, rng)
            outcomes["manifest", how, check_manifest(copy, sound, mutant)] += 1
            if sealed := resealed(mutant):
                outcomes["manifest, resealed", how, check_resealed(copy, sealed)] += 1
            config = rng.choice(sorted((ROOT / "configs/corpus").glob("*.json"))).read_bytes()
            outcomes["corpus config", how, check_config(tmp_path / "corpus.json", mutate(config, rng))] += 1
        (copy / "manifest.json").write_bytes(sound_manifest)
        for mutate in BYTE_MUTATIONS:
            name = rng.choice(manifest.shards).name
            data = (corpus_folder / name).read_bytes()
            outcomes["shard", mutate.__name__, check_shard(copy, name, sound, mutate(data, rng))] += 1
            (copy / name).write_bytes(data)
            index = rng.randrange(len(manifest.blocks))
            unpacked = read_block(manifest, index)
            frame = block.pack(np.split(unpacked.ids, np.cumsum(unpacked.lengths)[:-1]))
            outcomes["frame", mutate.__name__, check_frame(manifest, index, mutate(frame, rng))] += 1
    return outcomes


def test_mutated_corpora_are_refused_or_harmless(corpus_folder, tmp_path):
    outcomes = fuzz(corpus_folder, tmp_path, rounds=8)
    assert {what for what, _, came in outcomes if came == "refused"} == {what for what, _, _ in outcomes}
    assert ("manifest", "bytes: flip", "refused") in outcomes


@pytest.mark.slow
def test_thousands_of_mutated_corpora(corpus_folder, tmp_path, capsys):
    outcomes = fuzz(corpus_folder, tmp_path, rounds=180)
    with capsys.disabled():
        print(f"\n{'mutated':20}{'how':18}{'cases':>7}{'refused':>9}{'harmless':>10}")
        for what, how in sorted({(what, how) for what, how, _ in outcomes}):
            refused, harmless = (outcomes[what, how, came] for came in ("refused", "harmless"))
            print(f"{what:20}{how:18}{refused + harmless:7,}{refused:9,}{harmless:10,}")
        print(f"{'in all':38}{outcomes.total():7,}")
