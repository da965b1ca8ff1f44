"""The same corpus through Ray, with two workers, and also with one of them killed. Needs `pip install ray`."""

import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from corpus.building import plan as plans
from corpus.building import ray_workers
from corpus.building.builder import build_corpus, plan_corpus
from corpus.building.work_folder import work_folder
from corpus.config import BuildConfig
from tests.corpus.conftest import NO_CHARACTER_RULES


@pytest.fixture
def asked(tmp_path, wordpiece, monkeypatch) -> BuildConfig:
    """About 40 units, with duplicates across them."""
    monkeypatch.setattr(plans, "UNIT_BYTES", 40_000)
    random = np.random.default_rng(5)
    texts = ["".join(map(chr, (0x4E00 + random.integers(3000, size=200)).tolist())) for _ in range(2500)]
    (tmp_path / "in.txt").write_text("\n".join(texts + texts[:200]), encoding="utf-8")
    return config(tmp_path, wordpiece, "out")


def config(folder: Path, tokenizer: Path, output: str) -> BuildConfig:
    source = {"name": "s", "format": "lines", "inputs": [str(folder / "in.txt")], "cleaning": NO_CHARACTER_RULES}
    state = {"sources": [source], "tokenizer": str(tokenizer), "output": str(folder / output), "near_duplicates": {}}
    return BuildConfig.model_validate_json(json.dumps(state))


@pytest.fixture
def ray():
    library = pytest.importorskip("ray", reason="Ray is not installed (pip install ray==2.60.0)")
    library.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    library.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    yield library
    library.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_a_worker(work: Path, killed: list[int]) -> None:
    """Kills the first worker seen at a unit once five units are read."""
    while work.exists() and not killed:
        if len(list(work.glob(f"read-{'?' * 32}"))) >= 5:
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    name = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if name.startswith(b"ray::_run"):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    break
        time.sleep(0.001)


def test_two_workers_and_a_killed_one_give_the_same(tmp_path, asked, wordpiece, ray):
    build_corpus(config(tmp_path, wordpiece, "expected"), num_workers=1)
    plan, _ = plan_corpus(asked)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(work_folder(asked), killed))
    killer.start()
    manifest, _ = build_corpus(asked, engine="ray")
    killer.join()
    assert killed and len(plan.units) > 20 and manifest.totals.rejected == {"duplicate": 200}
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def fail(plan, work, index, on_bytes):
    if index == 2:
        raise ValueError(f"unit {index} is bad")
    warnings.warn(f"about unit {index}", stacklevel=2)


def die(plan, work, index, on_bytes):
    os.kill(os.getpid(), signal.SIGKILL)


def test_errors_warnings_and_deaths_reach_the_caller(asked, ray):
    plan, _ = plan_corpus(asked)
    work, sizes = work_folder(asked), []
    with pytest.warns(UserWarning, match="about unit 1"):
        ray_workers.run_units(fail, plan, work, range(2), 1, sizes.append)
    assert sizes == [unit.num_bytes for unit in plan.units[:2]]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"^unit 2 is bad$"):
        ray_workers.run_units(fail, plan, work, range(4), 1, sizes.append)
    with pytest.raises(ValueError, match="unit 0 could not be run, tried four times: "):
        ray_workers.run_units(die, plan, work, range(1), 1, sizes.append)


def test_a_missing_ray_is_reported(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"the engine ray needs Ray: pip install ray==2\.60\.0 on every machine"):
        build_corpus(asked, engine="ray")
