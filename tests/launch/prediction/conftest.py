"""A tiny task of every kind, and a random model with its head."""

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import BertTokenizer

from launch import predict
from tasks.config import TaskConfig
from tasks.kinds.registry import KINDS
from tasks.models import load_task_model
from tasks.readers import read_task
from tests.pretrain.tiny import teacher_model

TEXTS = ["天地玄黄", "宇宙洪荒hello", "日月盈昃" * 12, "水", "hello world", "辰宿列张，寒来暑往", "秋收冬藏" * 3]
IDIOMS = ["天地玄黄", "宇宙洪荒", "日月盈昃", "辰宿列张", "寒来暑往"]
_WSC = {"span1_index": 0, "span1_text": "天", "span2_index": 1, "span2_text": "地"}
_PASSAGE = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。" * 3


def _question(place: int) -> dict[str, object]:
    answers = [{"text": "宇宙", "answer_start": _PASSAGE.index("宇宙")}]
    return {"id": f"Q{place}", "question": TEXTS[place][:9], "answers": answers}


RECORDS = {
    "sentence": [{"sentence": text, "label": "ab"[len(text) % 2]} for text in TEXTS],
    "pair": [{"id": 7 + n, "sentence1": one, "sentence2": "水", "label": "ab"[n % 2]} for n, one in enumerate(TEXTS)],
    "coreference": [
        {"text": f"天地{text}", "target": _WSC, "label": ("true", "false")[place % 2]}
        for place, text in enumerate(TEXTS)
    ],
    "entities": [{"text": text, "label": {"name": {text[:1]: [[0, 0]]}}} for text in TEXTS],
    "reading": [{"paragraphs": [{"context": _PASSAGE, "qas": [_question(place) for place in range(len(TEXTS))]}]}],
    "choice": [
        [[text, "水"], [{"question": "何？", "choice": list("天地水")[: 2 + place % 2], "answer": "天"}], f"1-{place}"]
        for place, text in enumerate(TEXTS)
    ],
    "idioms": [
        {"content": [f"{text}#idiom{place}1#水#idiom{place}2#", f"#idiom{place}3#"], "candidates": IDIOMS}
        for place, text in enumerate(TEXTS)
    ],
}
ANSWERS = {f"#idiom{place}{blank}#": blank for place in range(len(TEXTS)) for blank in (1, 2, 3)}
KEYS = {"pair": {"columns": {"text": "sentence1", "text_b": "sentence2"}}, "reading": {"window_stride": 8}}


@dataclass
class Made:
    """The files of a tiny task: its configuration, its examples, and a model with its head."""

    config: TaskConfig
    task: Path
    data: Path
    model: Path


def build_tokenizer() -> BertTokenizer:
    """As BERT's, of the characters of these texts: a large vocabulary would take seconds to load."""
    characters = sorted(set(json.dumps(RECORDS, ensure_ascii=False)))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters)]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def make_task(folder: Path, kind: str, general: str, **keys: object) -> Made:
    """Write a task, and a random model for it."""
    data = folder / "dev.json"
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in RECORDS[kind])
    data.write_text("".join(lines), encoding="utf-8")
    (folder / "dev_answer.json").write_text(json.dumps(ANSWERS))
    values = (
        {"name": "t", "kind": kind, "train": str(data), "dev": str(data), "row_tokens": 32} | KEYS.get(kind, {}) | keys
    )
    (folder / "task.json").write_text(json.dumps({"task": values}))
    config = TaskConfig.model_validate(values)
    model = load_task_model(general, kind, read_task(config).labels, seed=1)
    model.save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    return Made(config, folder / "task.json", data, folder / "model")


@pytest.fixture(scope="session")
def general(tmp_path_factory):
    """A random encoder."""
    folder = tmp_path_factory.mktemp("general")
    tokenizer = build_tokenizer()
    teacher_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory, general):
    """A tiny task by its kind, each made once."""
    found: dict[str, Made] = {}

    def of_kind(kind: str) -> Made:
        if kind not in found:
            found[kind] = make_task(tmp_path_factory.mktemp(kind), kind, general)
        return found[kind]

    assert RECORDS.keys() == KINDS.keys()
    return of_kind


def run_predict(made: Made, output: Path, stop: object = None, **options: object) -> Path:
    """The command without its process: what it writes."""
    values = {"model": str(made.model), "task": str(made.task), "input": made.data, "output": output, "form": None,
              "probabilities": False, "dtype": "float32"}  # fmt: skip
    predict.run(Namespace(**values | options), stop or SimpleNamespace(reason=0))
    return output
