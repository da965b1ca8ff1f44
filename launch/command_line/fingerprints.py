"""What models and tasks are made from beyond their paths, so that nothing finished is kept of other ones."""

from functools import cache
from hashlib import sha256
from pathlib import Path

from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from pretrain.models.pretrained import check_vocabulary, load_encoder, read_shape
from pretrain.models.teacher import fingerprint
from tasks.config import TaskConfig


@cache
def model_inputs(path: str) -> dict[str, str]:
    """Fingerprints of an encoder's weights and of its tokenizer; ValueError where either cannot be loaded."""
    return {"weights": fingerprint(load_encoder(path)), "tokenizer": tokenizer_of(path)}


def tokenizer_of(path: str) -> str:
    """The fingerprint of a model's tokenizer; ValueError where that cannot be loaded or is too large for it."""
    tokenizer = load_tokenizer(path)
    check_vocabulary(path, read_shape(path).vocab_size, len(tokenizer))
    return tokenizer_fingerprint(tokenizer)


def file_inputs(task: TaskConfig) -> dict[str, str]:
    """Digests of a task's two files."""
    files = {"train": task.train, "dev": task.dev}
    return {name: sha256(Path(path).read_bytes()).hexdigest()[:16] for name, path in files.items()}
