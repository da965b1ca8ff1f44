"""A kind of task is one class and one entry: this one is added from outside, read, encoded and scored."""

import json
import re

import pytest
import torch
from transformers import AutoTokenizer

from tasks.config import TaskConfig
from tasks.evaluation import score
from tasks.kinds.registry import KINDS
from tasks.readers import encode, read_task
from tests.corpus.conftest import wordpiece  # noqa: F401  (a fixture)
from tests.processes import ROOT


@pytest.fixture
def headline(monkeypatch):
    """The example of CONTRIBUTING.md, registered."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(class Headline\(.*?)```", text, re.DOTALL)
    names = {}
    exec("from tasks.kinds.classification import *", names)
    exec(code, names)
    monkeypatch.setitem(KINDS, "headline", names["Headline"]())


def test_a_kind_from_outside(headline, wordpiece, tmp_path):  # noqa: F811
    records = [{"sentence": "天地：玄黄", "label": "one"}, {"sentence": "宇宙：洪荒", "label": "two"}]
    for name in ("train", "dev"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, records)))
    config = TaskConfig(name="news", kind="headline", train=str(tmp_path / "train"), dev=str(tmp_path / "dev"))
    data = read_task(config)
    assert [example.text for example in data.dev] == ["天地", "宇宙"] and data.labels == ("one", "two")
    rows = encode(data.dev, config, data.labels, AutoTokenizer.from_pretrained(wordpiece)).rows
    answers = [torch.nn.functional.one_hot(torch.tensor(row.labels["labels"]), 2) for row in rows]
    assert score(answers, rows, data.dev, config, data.labels) == {"accuracy": 1.0, "f1": 1.0, "macro_f1": 1.0}


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        ValueError, match="unknown kind 'headline'; there are sentence, pair, coreference, entities, reading, "
    ):
        TaskConfig(name="news", kind="headline", train="a", dev="b")
