"""Perfect predictions score 1, the best span is the best of all, and batching changes no prediction."""

import json

import pytest
import torch
import zstandard
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from pretrain.models.encoder import Encoder, Reads
from tasks import evaluation
from tasks.config import TaskConfig
from tasks.evaluation import predict, score
from tasks.examples import Choice, Classified, Entity, Question, Tagged
from tasks.kinds.entities import tags_of
from tasks.kinds.reading import MAX_ANSWER_TOKENS, answers_of, best_span
from tasks.kinds.registry import KINDS
from tasks.readers import encode, read_task
from tasks.rows import IGNORED, Row
from tests.pretrain.tiny import teacher_model
from tests.tasks.conftest import SHARED

PAIR = {"text": "sentence1", "text_b": "sentence2"}


def task(kind, **keys):
    return TaskConfig(name="t", kind=kind, **({"train": "", "dev": "", "row_tokens": 512} | keys))


def logits_of(row, num_classes):
    """What a model says that knows the labels."""
    if "start_positions" in row.labels:
        logits = torch.zeros(len(row.input_ids), 2)
        logits[row.labels["start_positions"], 0] = logits[row.labels["end_positions"], 1] = 5.0
        return logits
    labels, num_classes = torch.tensor(row.labels["labels"]), len(row.choices) or num_classes
    return torch.nn.functional.one_hot(labels.masked_fill(labels == IGNORED, 0), num_classes).float()


def score_labels(examples, config, labels, tokenizer):
    rows = encode(examples, config, labels, tokenizer).rows
    num_classes = len(tags_of(labels)) if config.kind == "entities" else len(labels)
    return score([logits_of(row, num_classes) for row in rows], rows, examples, config, labels)


EXAMPLES = {
    "sentence": [Classified("水", None, 1), Classified("冰", None, 0), Classified("冰水", None, 1)],
    "pair": [Classified("水", "冰", 1), Classified("冰", "水", 0)],
    "coreference": [Classified("_水_结冰，[它]", None, 1), Classified("_水_[结]", None, 0)],
    "entities": [Tagged("Hello 水", (Entity(0, 5, "b"), Entity(6, 7, "a"))), Tagged("水水", (Entity(0, 1, "a"),))],
    "reading": [
        Question("A", "几度", "天地玄黄。" * 120 + "水在零度结冰。" + "宇宙洪荒。" * 60, ((602, "零度"),)),
        Question("B", "几度", "水在 hello 结冰", ((3, "hello"), (0, "水"))),
    ],
    "choice": [
        Choice("", "水在零度结冰。" * 90, "几度？", ("零度", "一百度"), 1),
        Choice("", "hello", "谁？", ("水", "冰", "天", "地"), 3),
    ],
    "idioms": [
        Choice("#idiom1#", "水#idiom1#冰#idiom2#" * 60, "#idiom1#", ("天地玄黄", "宇宙洪荒"), 1, 0),
        Choice("#idiom2#", "水#idiom1#冰#idiom2#", "#idiom2#", ("天地玄黄", "宇宙洪荒"), 0, 0),
        Choice("#idiom3#", "#idiom3#", "#idiom3#", ("天地玄黄", "宇宙洪荒"), 0, 1),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_labels_themselves_score_one(kind, tokenizer):
    config = task(kind, columns=PAIR) if kind == "pair" else task(kind)
    scores = score_labels(EXAMPLES[kind], config, () if kind == "reading" else ("a", "b"), tokenizer)
    assert scores == dict.fromkeys(KINDS[kind].metrics, 1.0)


REAL = {
    "tnews": task("sentence"),
    "chnsenticorp": task("sentence"),
    "afqmc": task("pair", columns=PAIR),
    "ocnli": task("pair", columns=PAIR),
    "cluewsc2020": task("coreference"),
    "cluener": task("entities"),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.filterwarnings("ignore:t. .* are cut")
def test_the_labels_of_real_tasks_score_one(name, tmp_path, wordpiece):
    files = {}
    for split in ("train", "dev"):
        packed = SHARED / f"tasks/{name}/{split}.jsonl.zst"
        if not packed.is_file():
            pytest.skip(f"shared data is not there: ../shared/data/tasks/{name}")
        files[split] = str(tmp_path / split)
        with zstandard.open(packed, "rt", encoding="utf-8") as file:
            (tmp_path / split).write_text("".join(file.readlines()[:300]), encoding="utf-8")
    config = REAL[name].model_copy(update=files)
    data = read_task(config)
    scores = score_labels(data.train, config, data.labels, wordpiece)
    assert len(data.train) == 300 and scores and set(scores.values()) == {1.0}


def test_the_answers_of_real_questions_are_found(tmp_path, tokenizer):
    packed = SHARED / "tasks/cmrc2018/train.json.zst"
    if not packed.is_file():
        pytest.skip("shared data is not there: ../shared/data/tasks/cmrc2018")
    with zstandard.open(packed, "rt", encoding="utf-8") as file:
        (tmp_path / "train").write_text(json.dumps({"data": json.load(file)["data"][::60]}))
    config = task("reading", train=str(tmp_path / "train"), dev=str(tmp_path / "train"))
    questions = [one for one in read_task(config).train if len(one.answers[0][1]) < MAX_ANSWER_TOKENS]
    scores = score_labels(questions, config, (), tokenizer)
    assert scores["reading_f1"] > 0.99 and scores["exact_match"] > 0.95  # a piece may hold more than the answer


def test_text_beyond_the_row_is_no_entity(wordpiece):
    example = Tagged("水" * 20, (Entity(0, 2, "a"), Entity(18, 20, "a")))
    scores = score_labels([example], task("entities", row_tokens=16), ("a", "b"), wordpiece)
    assert scores["entity_f1"] == pytest.approx(2 / 3)  # one of two is found


def slow_best_span(logits, offsets):
    """(value, start, end) of every start and end inside the text, the best of them."""
    spans = [
        (float(logits[start, 0] + logits[end, 1]), offsets[start][0], offsets[end][1])
        for start in range(len(offsets))
        for end in range(start, min(start + MAX_ANSWER_TOKENS, len(offsets)))
        if offsets[start] and offsets[end]
    ]
    return max(spans, default=None)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_best_span_is_the_best_of_all(sign):
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(-6, 6, 100).unsqueeze(1) * torch.tensor([sign, -sign])  # starts late and ends early, or far
    for _ in range(10):
        logits = torch.randn(100, 2, generator=generator) + slope
        offsets = [None] * 20 + [(place, place + 1) for place in range(79)] + [None]
        offsets[50] = None
        row = Row([0] * 100, [0] * 100, {}, 0, tuple(offsets))
        found, expected = best_span(logits, row), slow_best_span(logits, offsets)
        assert found[1:] == expected[1:] and found[0] == pytest.approx(expected[0])
        assert best_span(logits, Row([0] * 100, [0] * 100, {}, 0, (None,) * 100)) is None


def test_a_model_that_is_not_a_number_answers_nothing():
    row = Row([0] * 3, [0] * 3, {}, 0, (None, (0, 1), None))
    assert answers_of([torch.full((3, 2), torch.nan)], [row], [Question("Q", "几度", "水", ((0, "水"),))]) == [""]


def test_the_likeliest_window_answers():
    question = Question("Q", "几度", "天地玄黄", ((0, "天"),))
    windows = [Row([0] * 3, [0] * 3, {}, 0, (None, (place, place + 1), (place + 1, place + 2))) for place in (0, 1, 2)]
    logits = [torch.tensor([[9.0, 9.0], [value, 0.0], [0.0, 0.0]]) for value in (1.0, 3.0, 2.0)]
    assert answers_of(logits, windows, [question]) == ["地"]


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
def test_batches_and_padding_change_no_answer(auto_class):
    encoder = Encoder(teacher_model(auto_class=auto_class, num_labels=3), Reads(logits=True))
    rows = [Row(list(range(2, 2 + length)), [0] * length, {"labels": 0}, 0) for length in (5, 3, 9, 3, 7)]
    one, three = ([*predict(lambda batch: encoder(batch).logits, rows, 0, size)] for size in (1, 3))
    for row, alone, together in zip(rows, one, three, strict=True):
        assert alone.shape == ((3,) if auto_class is AutoModelForSequenceClassification else (len(row.input_ids), 3))
        torch.testing.assert_close(alone, together)
        assert together.untyped_storage().nbytes() == 4 * together.numel(), "sent to other ranks with its whole batch"
        inputs = {"input_ids": torch.tensor([row.input_ids]), "token_type_ids": torch.tensor([row.token_type_ids])}
        torch.testing.assert_close(alone, encoder(inputs).logits[0].detach())


def test_long_rows_come_few_at_a_time(monkeypatch):
    monkeypatch.setattr(evaluation, "_BATCH_TOKENS", 12)
    rows = [Row([2] * length, [0] * length, {"labels": 0}, 0) for length in (4, 20, 5, 1, 2, 2, 3)]
    shapes = []

    def model(batch):
        shapes.append(tuple(batch["input_ids"].shape))
        return batch["input_ids"][:, :1]

    assert len(predict(model, rows, 0, 3)) == 7
    assert shapes == [(3, 2), (2, 4), (1, 5), (1, 20)], "at most 3 rows or 12 tokens, a longer row alone"


def test_predictions_are_float32_and_hold_no_graph():
    rows = [Row([2, 3], [0, 0], {"labels": 0}, 0)]
    weight = torch.ones(1, requires_grad=True)
    (logits,) = predict(lambda batch: (batch["input_ids"] * weight).bfloat16(), rows, 0, 8)
    assert logits.dtype == torch.float32 and not logits.requires_grad
