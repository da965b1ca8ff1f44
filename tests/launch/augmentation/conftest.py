"""A tiny task, and a random encoder with a masked-language head, that knows Chinese characters."""

import json

import pytest
from transformers import AutoModelForMaskedLM

from tests.pretrain.tiny import teacher_model
from tests.tasks.conftest import build_wordpiece

TITLES = [
    "老师喜欢手机",
    "家长购买发票",
    "学生参加考试",
    "银行发行股票",
    "球队赢得比赛",
    "医院招聘医生",
    "游客参观城市",
]
NUM_RECORDS = 130  # three shards


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """With a head for masked words; its encoder is one for any source."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_wordpiece()
    tokenizer.save_pretrained(folder)
    teacher_model("bert", AutoModelForMaskedLM, vocab_size=len(tokenizer)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """Without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = build_wordpiece()
    tokenizer.save_pretrained(folder)
    teacher_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def task_values(tmp_path_factory):
    """Titles of two parts each."""
    folder = tmp_path_factory.mktemp("task")
    records = [
        {"sentence": TITLES[n % 7] + "，" + TITLES[n % 5], "label": "ab"[n % 2], "id": n} for n in range(NUM_RECORDS)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    path = str(folder / "train.jsonl")
    return {"name": "t", "kind": "sentence", "train": path, "dev": path, "row_tokens": 32}


@pytest.fixture(scope="session")
def task_file(tmp_path_factory, task_values):
    path = tmp_path_factory.mktemp("config") / "t.json"
    path.write_text(json.dumps({"task": task_values}))
    return str(path)
