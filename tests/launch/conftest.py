"""A tiny corpus, teacher, config and a finished run of the main job, each made once by the real commands."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.corpus.conftest import corpus_folder, documents, one_core, wordpiece  # noqa: F401  (fixtures)
from tests.launch.jobs import SAVE_EVERY_STEPS, deepspeed_command
from tests.pretrain.tiny import student_config, teacher_model
from tests.processes import run_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A token a character, of four."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocab = {piece: index for index, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"天地玄黄"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, wordpiece: Path) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = AutoTokenizer.from_pretrained(wordpiece)
    tokenizer.save_pretrained(folder)
    teacher_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder


def with_pooling(teacher: Path, folder: Path, flag: str = "mean_tokens") -> Path:
    """A teacher's folder again, with the file of sentence-transformers that says how its vectors are pooled."""
    folder.mkdir()
    for file in teacher.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{flag}": True}))
    return folder


@pytest.fixture(scope="session")
def config_values(teacher_folder: Path, corpus_folder: Path) -> dict[str, Any]:  # noqa: F811
    """A run of 6 steps of 8 rows of 16 tokens, two students."""
    students = [student_config(name).model_dump(mode="json") for name in ("small", "other")]
    return {
        "about": "tests",
        "corpus": {"manifest": str(corpus_folder), "row_tokens": 16},
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "students": students,
        "training": {"total_steps": 6, "log_every_steps": 2, "save_every_steps": 3},
        "deepspeed": {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4},
    }


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, config_values: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(config_values))
    return path


def launch(*arguments: str, num_ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """`launch/gd.py` on as many ranks, without the seconds that a launcher and its imports take."""
    return run_script("launch/gd.py", *arguments, num_ranks=num_ranks)


def launch_as_typed(*arguments: str, num_ranks: int) -> subprocess.CompletedProcess[str]:
    """`deepspeed launch/gd.py ...` as a user types it, with a port of its own."""
    return subprocess.run(
        [*deepspeed_command(num_ranks), *arguments],
        cwd=ROOT,
        env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, config_file: Path) -> Path:
    """The main job on two ranks."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    done = launch("--config", str(config_file), "--run", str(run), num_ranks=2)
    assert done.returncode == 0, done.stderr
    (step,) = re.findall(r"6 steps, (\d+) tokens", done.stdout)
    assert 500 < int(step) < 768, "padding is no token"
    return run


@pytest.fixture(scope="session")
def disturbed_config(tmp_path_factory: pytest.TempPathFactory, config_values: dict[str, Any]) -> Path:
    """Of runs that are killed, cut off or stopped on their way: long enough for three times, a checkpoint now and then.

    In float32, which every machine has: they are to end with the bits of a run that nothing happened to.
    """
    training = {"total_steps": 80, "log_every_steps": 1, "save_every_steps": SAVE_EVERY_STEPS}
    deepspeed = config_values["deepspeed"] | {"torch_autocast": {"enabled": False}}
    path = tmp_path_factory.mktemp("config") / "disturbed.json"
    path.write_text(json.dumps(config_values | {"training": training, "deepspeed": deepspeed}))
    return path


@pytest.fixture(scope="session")
def undisturbed(disturbed_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `disturbed_config` that nothing happened to: two ranks of one host."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = launch("--config", str(disturbed_config), "--run", str(run), num_ranks=2)
    assert done.returncode == 0, done.stderr
    return run
