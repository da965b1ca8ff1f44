"""What models and tasks are made from beyond their paths, so that nothing finished is kept of other ones."""

from functools import cache
from hashlib import sha256
from pathlib import Path

from transformers import AutoTokenizer

from corpus.tokenizer import tokenizer_fingerprint
from pretrain.teacher import fingerprint, load_teacher_model
from tasks.settings import TaskConfig


@cache
def model_inputs(path: str) -> dict[str, str]:
    """Fingerprints of an encoder's weights and of its tokenizer; ValueError where either cannot be loaded."""
    return {"weights": fingerprint(load_teacher_model(path)), "tokenizer": tokenizer_of(path)}


def tokenizer_of(path: str) -> str:
    """The fingerprint of a model's tokenizer; ValueError where it cannot be loaded."""
    try:
        return tokenizer_fingerprint(AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no tokenizer could be loaded: {str(error).strip().splitlines()[0]}") from error


def file_inputs(task: TaskConfig) -> dict[str, str]:
    """Digests of a task's two files."""
    files = {"train": task.train, "dev": task.dev}
    return {name: sha256(Path(path).read_bytes()).hexdigest()[:16] for name, path in files.items()}
