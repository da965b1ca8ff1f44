"""Fingerprints of models and task files, by which finished work is recognised as made from the same inputs."""

from functools import cache
from hashlib import sha256

from corpus.vocabulary.pieces import pieces_by_id
from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from pretrain.models.folder import check_place
from pretrain.models.pretrained import check_vocabulary, load_encoder, read_shape
from pretrain.models.teacher import fingerprint
from tasks.config import TaskConfig
from tasks.kinds.record_files import task_files


@cache
def model_inputs(path: str) -> dict[str, str]:
    """Return fingerprints of an encoder's weights and its tokenizer. Raise ValueError if either cannot be loaded."""
    return {"weights": fingerprint(load_encoder(path)), "tokenizer": tokenizer_of(path)}


def tokenizer_of(path: str) -> str:
    """Return the fingerprint of a model's tokenizer.

    Raise ValueError if it cannot be loaded or has more tokens than the model.
    """
    check_place(path)
    tokenizer = load_tokenizer(path)
    check_vocabulary(path, read_shape(path).vocab_size, pieces_by_id(tokenizer))
    return tokenizer_fingerprint(tokenizer)


def file_inputs(task: TaskConfig) -> dict[str, str]:
    """Return digests of a task's two files."""
    files = {"train": task.train, "dev": task.dev}
    return {
        name: sha256(b"".join(path.read_bytes() for path in task_files(pattern))).hexdigest()[:16]
        for name, pattern in files.items()
    }
