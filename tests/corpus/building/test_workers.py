"""The same corpus, bit for bit, from any number of processes, from single steps, and after any kill."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from corpus.building import plan as plans
from corpus.building import workers
from corpus.building.builder import build_corpus, finish_corpus, match_corpus, plan_corpus, run_unit
from corpus.building.encode_step import encode_unit
from corpus.building.read_step import read_unit
from corpus.building.work_folder import work_folder
from corpus.config import BuildConfig
from tests.corpus.conftest import NO_CHARACTER_RULES

ROOT = Path(__file__).parents[3]
UNIT_BYTES = 40_000
# The command of its own process, with smaller units than a user's.
COMMAND = (
    f"import corpus.building.plan; corpus.building.plan.UNIT_BYTES = {UNIT_BYTES}; import sys; "
    "from launch.build_corpus import main; sys.exit(main())"
)


def text_of(random, length):
    return "".join(map(chr, (0x4E00 + random.integers(3000, size=length)).tolist()))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """27 units, with duplicates, near ones and rejects in and across them, and a test set."""
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(11)
    texts = [text_of(random, int(random.integers(10, 200))) for _ in range(2000)]
    texts += [text[:-1] + "改" for text in texts[:300]] + texts[100:200]
    random.shuffle(texts)
    (folder / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    (folder / "b.jsonl").write_text(
        "\n".join(json.dumps({"t": text}) for text in [*texts[::5], "", "天地" * 9]) + "\n{\n", encoding="utf-8"
    )
    (folder / "test.txt").write_text("\n".join(text for text in texts[:20] if len(text) > 15), encoding="utf-8")
    return folder


def config(inputs, tokenizer, output) -> BuildConfig:
    return BuildConfig.model_validate_json(json.dumps(state(inputs, tokenizer, output)))


def state(inputs, tokenizer, output) -> dict:
    return {
        "sources": [
            {"name": "a", "format": "lines", "inputs": [str(inputs / "a.txt")], "cleaning": NO_CHARACTER_RULES},
            {"name": "b", "format": "jsonl", "text_fields": ["t"], "inputs": [str(inputs / "b.jsonl")]},
        ],
        "decontamination": [
            {"name": "t", "format": "lines", "inputs": [str(inputs / "test.txt")], "cleaning": NO_CHARACTER_RULES}
        ],
        "near_duplicates": {"jaccard": 0.7},
        "tokenizer": str(tokenizer),
        "output": str(output),
    }


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", UNIT_BYTES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, inputs, wordpiece) -> dict[str, bytes]:
    """What one process gives without a kill."""
    output = tmp_path_factory.mktemp("expected") / "out"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(plans, "UNIT_BYTES", UNIT_BYTES)
        manifest, _ = build_corpus(config(inputs, wordpiece, output), num_workers=1)
    assert {"duplicate", "near_duplicate", "contaminated"} <= set(manifest.totals.rejected) and len(manifest.shards) > 9
    return contents(output)


def contents(folder: Path) -> dict[str, bytes]:
    assert not folder.with_name(folder.name + ".partial").exists()
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.job
@pytest.mark.filterwarnings("ignore:b. ")
@pytest.mark.parametrize("num_workers", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_any_number_of_workers_gives_the_same(tmp_path, inputs, wordpiece, expected, num_workers):
    build_corpus(config(inputs, wordpiece, tmp_path / "out"), num_workers=num_workers)
    assert contents(tmp_path / "out") == expected


@pytest.mark.filterwarnings("ignore:b. ")
def test_single_steps_in_any_order_give_the_same(tmp_path, inputs, wordpiece, expected):
    asked = config(inputs, wordpiece, tmp_path / "out")
    plan, _ = plan_corpus(asked)
    indexes = range(len(plan.units))
    for index in reversed(indexes):
        run_unit(asked, read_unit, index)
    match_corpus(asked)
    with pytest.raises(ValueError, match="unit 0 is not encoded yet; run --encode-unit 0"):
        finish_corpus(asked)
    for index in reversed(indexes):
        run_unit(asked, encode_unit, index)
    with pytest.raises(ValueError, match=f"there is no unit {len(indexes)}; the plan has 0 to {len(indexes) - 1}"):
        run_unit(asked, read_unit, len(indexes))
    with pytest.raises(ValueError, match="was planned for another configuration; run --plan again"):
        finish_corpus(asked.model_copy(update={"near_duplicates": None}))
    finish_corpus(asked)
    assert contents(tmp_path / "out") == expected


@pytest.mark.job
def test_errors_in_a_worker_reach_the_caller(tmp_path, wordpiece):
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.txt").write_text("天地\n" * 8000, encoding="utf-8")
    (tmp_path / "in" / "3.gz").write_bytes(b"no gzip" * 9000)
    asked = {"sources": [{"name": "s", "format": "lines", "inputs": [str(tmp_path / "in")]}]}
    asked |= {"tokenizer": str(wordpiece), "output": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=r"in/3\.gz: cannot be read to its end: Error -3"):
        build_corpus(BuildConfig.model_validate_json(json.dumps(asked)), num_workers=2)
    assert not (tmp_path / "out").exists()


def die(plan, work, index, on_bytes):
    os.kill(os.getpid(), signal.SIGKILL)


def warn(plan, work, index, on_bytes):
    warnings.warn(f"unit {index}", stacklevel=2)
    on_bytes(7)


@pytest.mark.job
def test_a_killed_worker_is_reported_and_warnings_reach_the_caller(tmp_path, inputs, wordpiece):
    asked = config(inputs, wordpiece, tmp_path / "out")
    plan, _ = plan_corpus(asked)
    work, seen = work_folder(asked), []
    with pytest.warns(UserWarning, match="unit 3"):
        workers.run_units(warn, plan, work, range(5), 2, seen.append)
    assert sum(seen) == 35
    with pytest.raises(ValueError, match="a worker was killed, probably for lack of memory; use fewer --workers"):
        workers.run_units(die, plan, work, range(5), 2, seen.append)


def start(file: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND, "--config", str(file), "--workers", "2"]
    # TQDM_DISABLE: no bars among the tests' output.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    command[2] = COMMAND.replace("main()", f"main({command[3:]!r})")
    return subprocess.Popen(
        command[:3], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def num_done(work: Path) -> int:
    """Units read plus units encoded."""
    return sum(num_done_by(step, work) for step in ("read", "encoded"))


def num_done_by(step: str, work: Path) -> int:
    return sum(1 for _ in work.glob(f"{step}-{'[0-9a-f]' * 32}"))


def kill_often(num_kills: int, tmp_path, inputs, wordpiece, expected) -> list[tuple[float, int, int]]:
    """Kills builds at random moments until that many hit; for each the second, and the units read and encoded."""
    file = tmp_path / "c.json"
    file.write_text(json.dumps(state(inputs, wordpiece, tmp_path / "out")))
    work = tmp_path / "out.partial"
    random = np.random.default_rng(num_kills)
    kills: list[tuple[float, int, int]] = []
    while len(kills) < num_kills:
        process, began = start(file), time.monotonic()
        # At a random number of units done, not of seconds: most of a short run is imports.
        enough = num_done(work) + random.integers(1, 9)
        while num_done(work) < enough and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0 and contents(tmp_path / "out") == expected
            for path in (tmp_path / "out").iterdir():
                path.unlink()
            continue
        process.kill()
        process.wait(60)
        done = [num_done_by(step, work) for step in ("read", "encoded")]
        kills.append((round(time.monotonic() - began, 1), *done))
    assert start(file).wait(240) == 0
    assert contents(tmp_path / "out") == expected
    return kills


@pytest.mark.job
def test_a_killed_build_continues_to_the_same_corpus(tmp_path, inputs, wordpiece, expected):
    kill_often(1, tmp_path, inputs, wordpiece, expected)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, inputs, wordpiece, expected):
    kills = kill_often(20, tmp_path, inputs, wordpiece, expected)
    print("\nkilled after s, units read, units encoded:", *kills, sep="\n")
    assert len({(read, encoded) for _, read, encoded in kills}) > 3
