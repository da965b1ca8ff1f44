"""The real job on a GPU, as bench/gpu_check.py runs it: trained, stopped and continued, published.

Text, tokenizer and teacher are made here from random characters and random weights: nothing is downloaded.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
NUM_CHARACTERS, FIRST = 3000, 0x4E00  # of the CJK block


def job(tiny: bool, folder: Path) -> dict[str, Any]:
    """Train a run undisturbed, another that is stopped halfway and continued, compare them, and publish the latter."""
    config = _prepare(tiny, folder)
    whole, stopped = folder / "whole", folder / "stopped"
    seconds = {"whole run": _run(config, whole)}
    was_stopped = _stop_halfway(config, stopped)
    seconds["continued run"] = _run(config, stopped)
    same, distance = _compare(_final(whole), _final(stopped))
    print(
        f"stopped at {was_stopped or 'no step: it was done before'}, continued: "
        f"{'the same bits as undisturbed' if same else f'{distance:.1e} from the undisturbed run'}",
        flush=True,
    )
    from launch.publishing.student_folder import publish

    apart = publish(stopped, "student", folder / "published")
    print(f"published; its answers on the CPU are within {apart:.1e} of the live student's", flush=True)
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    return {
        "ok": True,
        "stopped at step": was_stopped,
        "same bits": same,
        "relative distance": distance,
        "difference when published": apart,
        "seconds": seconds,
        "tokens a second": metrics[-1]["tokens_per_second"],
        "first and last loss": [metrics[0]["student/loss"], metrics[-1]["student/loss"]],
        "ran on": json.loads((whole / "run.json").read_text()).get("ran_on"),
    }


def _prepare(tiny: bool, folder: Path) -> Path:
    """A corpus, a teacher and a configuration; the configuration's path."""
    characters = [chr(FIRST + index) for index in range(NUM_CHARACTERS)]
    vocabulary = {piece: index for index, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    layers, width = (2, 48) if tiny else (12, 768)
    torch.manual_seed(0)
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": 12,
        "intermediate_size": 4 * width,
    }
    model = AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=len(vocabulary), **sizes))
    model.save_pretrained(folder / "teacher")
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder / "teacher")
    draw = random.Random(0)
    lines = ("".join(draw.choices(characters, k=draw.randint(20, 200))) for _ in range(300 if tiny else 30_000))
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    source = ["--input", folder / "text.txt", "--format", "lines"]
    _command("launch/build_corpus.py", *source, "--tokenizer", folder / "teacher", "--output", folder / "corpus")
    student = {"name": "student", "num_layers": 2 if tiny else 4, "hidden_size": 24 if tiny else 312}
    student |= {"num_attention_heads": 12, "intermediate_size": 48 if tiny else 1200, "optimizer": {"lr": 6e-4}}
    student |= {"schedule": {}, "objective": [{"type": "minilm_v2", "num_relation_heads": 12}]}
    rows = 4 if tiny else 64
    values = {
        "corpus": {"manifest": str(folder / "corpus"), "row_tokens": 16 if tiny else 128},
        "teacher": {"path": str(folder / "teacher")},
        "students": [student],
        "training": {
            "total_steps": 30 if tiny else 400,
            "log_every_steps": 1 if tiny else 10,
            "save_every_steps": 1000,
        },
        "deepspeed": {"train_batch_size": rows, "train_micro_batch_size_per_gpu": rows},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def _run(config: Path, run: Path) -> float:
    """Seconds of the whole command."""
    started = time.monotonic()
    _command("launch/gd.py", "--config", config, "--run", run)
    return time.monotonic() - started


def _command(*command: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, env=_environment()
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


def _environment() -> dict[str, str]:
    """Ours, without what this process noted of its own group of ranks."""
    of_a_rank = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in of_a_rank}


def _stop_halfway(config: Path, run: Path) -> int:
    """Start the job and ask it to stop after some steps; the step it stopped at, 0 where it was done before."""
    total = json.loads(config.read_text())["training"]["total_steps"]
    with (run.parent / "stopped.log").open("w") as log:
        command = [sys.executable, "launch/gd.py", "--config", str(config), "--run", str(run)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environment())
        while process.poll() is None and _logged_step(run) < total // 3:
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code not in (0, 75):
        raise RuntimeError(f"gd.py ended with {code}: {(run.parent / 'stopped.log').read_text()[-2000:]}")
    return 0 if code == 0 else max(int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*"))


def _logged_step(run: Path) -> int:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError):  # not there yet, or half a line
        return 0


def _final(run: Path) -> dict[str, torch.Tensor]:
    newest = max(run.glob("checkpoints/step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    return load_file(newest / "student" / "model" / "model.safetensors")


def _compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> tuple[bool, float]:
    """Whether all bits are the same, and the relative distance."""
    a, b = (torch.cat([one[name].flatten() for name in sorted(one)]) for one in (ours, theirs))
    return torch.equal(a, b), float((a - b).norm() / a.norm())
