"""Tiny students to export, a tokenizer of each kind, and a task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

from tests.pretrain.tiny import teacher_model
from tests.tasks.conftest import build_unigram, build_wordpiece

TEXTS = [f"{a}{b}{c}，" * (1 + place % 3) for place, a in enumerate("天地玄黄宇宙") for b in "洪荒日月" for c in "盈昃"]


@pytest.fixture(scope="session")
def make_student(tmp_path_factory) -> Callable[..., Path]:
    """A function that makes a folder with a random model and the tokenizer of its family."""

    def make(family: str = "bert", auto_class: Any = AutoModel, **sizes: Any) -> Path:
        folder = tmp_path_factory.mktemp(family) / "student"
        is_unigram = family in ("xlm-roberta", "albert")
        tokenizer = build_unigram() if is_unigram else build_wordpiece()
        sizes = {"num_hidden_layers": 2, "vocab_size": len(tokenizer) + 3, "initializer_range": 0.2} | sizes
        model = teacher_model(family, auto_class, pad_token_id=tokenizer.pad_token_id, **sizes)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if family == "roberta":  # else its own class would be asked to read WordPiece
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            settings |= {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_input_names": ["input_ids", "attention_mask"],
            }
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.fixture(scope="session")
def student(make_student) -> Path:
    return make_student()


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path
