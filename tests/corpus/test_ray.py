"""The real Ray, with two workers of which one is killed: run where ray is installed (see requirements.txt)."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from corpus import plan as plans
from corpus.builder import build_corpus
from corpus.settings import CorpusConfig

ray = pytest.importorskip("ray", reason="ray is not installed: pip install ray")


@pytest.fixture
def cluster(monkeypatch):
    root = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    yield
    ray.shutdown()


def kill_one_worker(work: Path, killed: list[int]) -> None:
    """Once some units are read and others are not, kills a process that runs one."""
    while not list(work.glob("read-?????")):
        time.sleep(0.01)
    while not killed:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::run_by_index"):
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
                return


@pytest.mark.usefixtures("cluster")
def test_a_killed_ray_worker_does_not_show(tmp_path, wordpiece, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 400_000)
    random = np.random.default_rng(1)
    rows = (0x4E00 + random.integers(3000, size=(20_000, 60))).tolist()
    (tmp_path / "a").write_text("\n".join("".join(map(chr, row)) for row in rows + rows[:500]), encoding="utf-8")
    outputs = {}
    for engine in ("local", "ray"):
        state = {
            "sources": [{"name": "s", "format": "lines", "inputs": [str(tmp_path / "a")]}],
            "tokenizer": str(wordpiece),
            "output": str(tmp_path / engine),
            "near_duplicates": {},
        }
        killed: list[int] = []
        killer = threading.Thread(target=kill_one_worker, args=(tmp_path / "ray.partial", killed), daemon=True)
        if engine == "ray":
            killer.start()
        build_corpus(CorpusConfig.model_validate_json(json.dumps(state)), engine, num_workers=1)
        outputs[engine] = {path.name: path.read_bytes() for path in (tmp_path / engine).iterdir()}
    assert killed and len(outputs["local"]) > 8
    assert outputs["ray"] == outputs["local"]
    (tmp_path / "b.gz").write_bytes(b"x")
    state |= {"output": str(tmp_path / "bad")}
    state["sources"][0]["inputs"] = [str(tmp_path / "b.gz")]
    with pytest.raises(ValueError, match=r"b\.gz: cannot be read to its end"):
        build_corpus(CorpusConfig.model_validate_json(json.dumps(state)), "ray")
