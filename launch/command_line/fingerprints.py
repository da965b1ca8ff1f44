"""Fingerprints of models and task files, by which finished work is recognised as made from the same inputs."""

from functools import cache
from hashlib import sha256

from corpus.vocabulary.pieces import pieces_by_id
from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from pretrain.models.folder import check_place
from pretrain.models.pretrained import check_vocabulary, load_encoder, load_model, read_shape
from pretrain.models.teacher import fingerprint
from tasks.config import TaskConfig
from tasks.kinds.record_files import task_files
from tasks.kinds.registry import KINDS


@cache
def model_inputs(path: str) -> dict[str, str]:
    """Return fingerprints of an encoder's weights and its tokenizer. Raise ValueError if either cannot be loaded."""
    return {"weights": fingerprint(load_encoder(path)), "tokenizer": tokenizer_of(path)}


@cache
def task_model_inputs(path: str, kind: str) -> dict[str, str]:
    """Return the same of a model with the head for a kind of task, whose weights count too."""
    return {"weights": fingerprint(load_model(KINDS[kind].auto_class, path)[0]), "tokenizer": tokenizer_of(path)}


def tokenizer_of(path: str) -> str:
    """Return the fingerprint of a model's tokenizer.

    Raise ValueError if it cannot be loaded or has more tokens than the model.
    """
    check_place(path)
    tokenizer = load_tokenizer(path)
    check_vocabulary(path, read_shape(path, needs_layers=False).vocab_size, pieces_by_id(tokenizer))
    return tokenizer_fingerprint(tokenizer)


def file_inputs(task: TaskConfig) -> dict[str, str]:
    """Return digests of a task's files; of two, unless it has augmented or unlabelled texts."""
    files = {"train": task.train, "dev": task.dev, "augmented": task.augmented, "unlabelled": task.unlabelled}
    return {
        name: sha256(b"".join(path.read_bytes() for path in task_files(pattern))).hexdigest()[:16]
        for name, pattern in files.items()
        if pattern
    }
