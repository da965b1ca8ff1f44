"""Predictions equal those that evaluations score, go on after a stop, and name what cannot be read."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from launch.prediction import predictions
from launch.prediction.model import Predictor
from launch.prediction.predictions import parts
from pretrain.ranks.stopping import Stopped
from tasks.evaluation import predict, score
from tasks.examples import Choice, Classified
from tasks.kinds.entities import character_tags, entities_in
from tasks.kinds.kind import Input
from tasks.kinds.registry import KINDS
from tasks.metrics import score_entities, score_reading
from tasks.readers import encode, read_task
from tests.launch.prediction.conftest import RECORDS, TEXTS, make_task, run_predict


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scored(made):
    """The logits of an evaluation of the development file, and its scores."""
    data = read_task(made.config)
    predictor = Predictor(str(made.model), made.config, "float32", torch.device("cpu"))
    rows = encode(data.dev, made.config, data.labels, predictor.tokenizer).rows
    logits = predict(predictor.logits, rows, predictor.tokenizer.pad_token_id)
    return data, logits, rows, score(logits, rows, data.dev, made.config, data.labels)


def score_of_file(kind, data, answers):
    """The scores of a file's answers, by the metrics themselves."""
    if kind == "reading":
        return score_reading(data.dev, {one["id"]: one["answer"] for one in answers})
    if kind == "entities":
        tags = []
        for example, answer in zip(data.dev, answers, strict=True):
            own = ["O"] * len(example.text)
            for name, found in answer["label"].items():
                for words, places in found.items():
                    for first, last in places:
                        assert example.text[first : last + 1] == words
                        own[first : last + 1] = [f"B-{name}", *[f"I-{name}"] * (last - first)]
            tags.append(own)
        return score_entities([character_tags(one) for one in data.dev], tags)
    expected = [one.label if isinstance(one, Choice) else data.labels[one.label] for one in data.dev]
    right = [one["label"] == label for one, label in zip(answers, expected, strict=True)]
    return {"accuracy": sum(right) / len(right)}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_those_that_are_scored(made, kind, tmp_path):
    task = made(kind)
    answers = read(run_predict(task, tmp_path / "out.jsonl"))
    data, logits, rows, scores = scored(task)
    expected = KINDS[kind].answers(logits, rows, data.dev, data.labels)
    assert [{name: one[name] for name in one if name != "id"} for one in answers] == expected
    assert all(set(one) == {"id", *KINDS[kind].answer_fields} for one in answers) and len(answers) == len(data.dev)
    assert score_of_file(kind, data, answers).items() <= scores.items()
    assert [*tmp_path.iterdir()] == [tmp_path / "out.jsonl"], "nothing is left beside it"


@pytest.mark.parametrize("kind", ["sentence", "entities", "reading", "idioms"])
def test_a_stopped_prediction_goes_on_to_the_same_file(made, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predictions, "PART_INPUTS", 2)
    whole = run_predict(made(kind), tmp_path / "whole.jsonl")
    stop, add = SimpleNamespace(reason=0), predictions.Predictions.add

    def add_and_stop(self, answers, **counts):
        add(self, answers, **counts)
        stop.reason = 15

    monkeypatch.setattr(predictions.Predictions, "add", add_and_stop)
    with pytest.raises(Stopped, match=r"^[23] answers are kept$"):
        run_predict(made(kind), tmp_path / "out.jsonl", stop)
    assert not (tmp_path / "out.jsonl").exists()
    with (tmp_path / ".out.jsonl.predictions/answers.jsonl").open("a") as file:
        file.write('{"id": "what a kill left')
    monkeypatch.setattr(predictions.Predictions, "add", add)
    assert run_predict(made(kind), tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()
    assert "goes on after" in capsys.readouterr().err


def test_answers_of_other_inputs_are_not_gone_on_from(made, tmp_path, monkeypatch):
    stop = SimpleNamespace(reason=0)
    monkeypatch.setattr(predictions, "PART_INPUTS", 2)
    add = predictions.Predictions.add
    monkeypatch.setattr(
        predictions.Predictions, "add", lambda self, *a, **k: (add(self, *a, **k), setattr(stop, "reason", 15))
    )
    with pytest.raises(Stopped):
        run_predict(made("sentence"), tmp_path / "out.jsonl", stop)
    with pytest.raises(ValueError, match=r"\.predictions: was started with another probabilities; remove .* to begin"):
        run_predict(made("sentence"), tmp_path / "out.jsonl", probabilities=True)
    answers = tmp_path / ".out.jsonl.predictions/answers.jsonl"
    answers.write_text("")
    with pytest.raises(ValueError, match=r"answers.jsonl: is shorter than it was written; remove"):
        run_predict(made("sentence"), tmp_path / "out.jsonl")
    answers.with_name("state.json").write_text("[]")
    with pytest.raises(ValueError, match=r"state.json: not written by this command; remove"):
        run_predict(made("sentence"), tmp_path / "out.jsonl")


def test_what_cannot_be_read_has_no_answer_and_is_counted(made, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    good = json.dumps({"sentence": "天地"}).encode()
    gbk = json.dumps({"sentence": "玄黄"}, ensure_ascii=False).encode("gb18030")
    long = json.dumps({"sentence": "天" * 99}).encode()
    lines = [good, b"{broken", b'"text"', gbk, b'{"text": "x"}', b'{"sentence": 3.5}', b'{"sentence": ""}', long]
    lines += [b"", good]
    bad.write_bytes(b"\n".join(lines))
    answers = read(run_predict(made("sentence"), tmp_path / "out.jsonl", input=bad))
    assert [one["label"] is None for one in answers] == [False, True, True, True, True, True, False, False, False]
    assert [one["id"] for one in answers] == [*range(9)]
    said = capsys.readouterr().err
    assert "t: 1 of 9 texts are cut at 32 tokens" in said and "t: 1 of 9 texts are empty, and answered as such" in said
    assert f"t: 5 of 9 records cannot be read and have no answer: {bad}:2: not a JSON object or list on one" in said
    assert answers[2]["problem"] == f'{bad}:3: not a JSON object or list: "text"'
    assert answers[3]["problem"].startswith(
        f"{bad}:4: not UTF-8: invalid continuation byte; if it is GB18030: iconv -f GB"
    )
    assert answers[4]["problem"] == f"{bad}:5: has no sentence; it has text"
    assert answers[5]["problem"] == f"{bad}:6: sentence must be text, got 3.5"


@pytest.mark.parametrize(
    ("kind", "record", "problem"),
    [
        ("pair", {"sentence1": "天"}, "has no sentence2; it has sentence1"),
        ("coreference", {"text": "天"}, "must be like"),
        ("entities", [1], 'must be like {"text"}, got list'),
        ("choice", [["天"], [{"question": "何"}], "1"], "must be [[text, ..], [{"),
        ("choice", [["天"], [{"question": "何", "choice": ["天"]}], "1"], "has 1 choices; must have at least two"),
        ("idioms", {"content": 3, "candidates": ["天", "地"]}, 'must be {"content"'),
    ],
)
def test_records_of_every_kind_that_cannot_be_read_are_named(made, kind, record, problem, tmp_path):
    data = tmp_path / "in.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in (*RECORDS[kind][:2], record)))
    answers = read(run_predict(made(kind), tmp_path / "out.jsonl", input=data))
    assert answers[-1]["problem"].startswith(f"{data}:3: {problem}")
    assert [*answers[-1]] == ["id", *KINDS[kind].answer_fields, "problem"]


def test_questions_of_one_id_have_an_answer_each(made, tmp_path):
    record = json.loads(json.dumps(RECORDS["reading"][0]))
    for one in record["paragraphs"][0]["qas"]:
        one |= {"id": "Q", "answers": [{"text": "FAKE_ANSWER_1", "answer_start": -1}]}
    (tmp_path / "in.json").write_text(json.dumps(record))
    answers = read(run_predict(made("reading"), tmp_path / "out.jsonl", input=tmp_path / "in.json"))
    expected = [one["answer"] for one in read(run_predict(made("reading"), tmp_path / "expected.jsonl"))]
    assert [one["answer"] for one in answers] == expected and {one["id"] for one in answers} == {"Q"}


def test_a_file_without_any_record_is_refused(made, tmp_path):
    for text, message in (
        ("", r"^--input .*/in.jsonl: there is nothing in it to predict$"),
        ("a\nb\n", r"in.jsonl:1: not .*\nno record can be read; 2 of 2"),
    ):
        (tmp_path / "in.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            run_predict(made("sentence"), tmp_path / "out.jsonl", input=tmp_path / "in.jsonl")
        assert [*tmp_path.iterdir()] == [tmp_path / "in.jsonl"], "nothing is left beside it"


def test_a_suffix_in_capitals_tells_the_form_of_output(made, tmp_path):
    answers = run_predict(made("sentence"), tmp_path / "out.CSV").read_text(encoding="utf-8")
    assert answers.startswith("id,label,problem\n0,")


def test_forms_of_input_are_told_by_their_suffix(made, tmp_path):
    expected = [one["label"] for one in read(run_predict(made("sentence"), tmp_path / "expected.jsonl"))]
    texts = {
        "in.txt": "\n".join(TEXTS), "in.csv": "\r\n".join(["sentence,more", *(f'"{text}",1' for text in TEXTS)]),
        "in.tsv": "\n".join(["more\tsentence", *(f"1\t{text}" for text in TEXTS)]),
        "list.json": json.dumps(RECORDS["sentence"], indent=1),
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text("\ufeff" + text if name == "in.csv" else text, encoding="utf-8")
        answers = read(run_predict(made("sentence"), tmp_path / f"{name}.out", input=tmp_path / name))
        assert [one["label"] for one in answers] == expected, name


def test_rows_of_a_table_that_do_not_fit_are_named(made, tmp_path):
    (tmp_path / "in.csv").write_bytes(b'sentence,b\nx,1\nx\n"y\xff",1\n')
    answers = read(run_predict(made("sentence"), tmp_path / "out", input=tmp_path / "in.csv"))
    assert [one.get("problem", "").rpartition(": ")[2] for one in answers] == [
        "", "has 1 columns instead of 2", "sentence has half of a character (a lone surrogate) at 1"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_belong_to_the_answers(made, kind, tmp_path):
    answers = read(run_predict(made(kind), tmp_path / "out.jsonl", probabilities=True))
    rows = [*csv.DictReader((run_predict(made(kind), tmp_path / "out.csv", probabilities=True)).open(encoding="utf-8"))]
    assert len(rows) == len(answers) and [*rows[0]] == ["id", *KINDS[kind].answer_fields, "probability", "problem"]
    for answer, row in zip(answers, rows, strict=True):
        sure = answer["probabilities"]
        if kind in ("sentence", "pair", "coreference", "choice"):
            values = list(sure.values()) if isinstance(sure, dict) else sure
            assert sum(values) == pytest.approx(1, abs=1e-5) and sure[answer["label"]] == max(values)
            assert float(row["probability"]) == max(values)
        elif kind == "entities":
            assert {name: [*words] for name, words in sure.items()} == {n: [*w] for n, w in answer["label"].items()}
        elif kind == "reading":
            assert 0 < sure <= 1
    assert rows[0]["id"] == str(answers[0]["id"])


def test_the_probability_of_an_answer_is_its_share_of_all_spans():
    from tasks.examples import Question
    from tasks.rows import Row

    windows = [Row([0] * 3, [0] * 3, {}, 0, (None, (place, place + 1), (place + 1, place + 2))) for place in (0, 1)]
    logits = [torch.tensor([[0.0, 0.0], [one, 0.0], [0.0, 1.0]]) for one in (1.0, 2.0)]
    spans = [one + end for one in (1.0, 2.0) for end in (0.0, 1.0)] + [1.0, 1.0]
    total = sum(torch.tensor(value).double().exp() for value in spans)
    (sure,) = KINDS["reading"].probabilities(logits, windows, [Question("Q", "a", "天地玄", ())], ())
    assert sure == pytest.approx(float(torch.tensor(3.0).double().exp() / total), abs=1e-6)


def test_tags_without_a_beginning_begin_an_entity():
    tags = ["I-a", "I-a", "B-a", "I-b", "O", "I-b"]
    assert [(one.start, one.end, one.type) for one in entities_in(tags)] == [
        (0, 2, "a"), (2, 3, "a"), (3, 4, "b"), (5, 6, "b")
    ]  # fmt: skip


def test_blanks_of_a_group_stay_together():
    def blank(group):
        return Input("b", Choice("b", "", "", ("a", "b"), -1, group))

    blanks = [blank(group) for group in (0, 0, 0, 1, 1, 2)]
    assert [len(part) for part in parts(blanks, 2)] == [3, 2, 1]
    texts = [Input(n, Classified("a", None, -1)) for n in range(5)]
    assert [len(part) for part in parts(texts, 2)] == [2, 2, 1]


def test_models_that_do_not_fit_are_refused(made, general, tmp_path):
    def refused(message, task, **options):
        with pytest.raises(ValueError, match=message):
            run_predict(task, tmp_path / "out.jsonl", **options)
        assert not (tmp_path / "out.jsonl").exists()

    sentence = made("sentence")
    refused("has no head for this task; fine-tune it first", sentence, model=general)
    refused("is a BertForTokenClassification, which cannot be used for a task of kind sentence", sentence,
            model=str(made("entities").model))  # fmt: skip
    refused(
        "its head is for the labels false, true; this task has a, b", sentence, model=str(made("coreference").model)
    )
    refused(r"out.json: there is no such file", sentence, input=tmp_path / "out.json")
    refused("there is no folder", sentence, model=str(tmp_path / "none"))
    longer = make_task(tmp_path, "sentence", general, row_tokens=64)
    refused(r"has 40 positions, but t needs 64 \(task.row_tokens\)", longer)
    (tmp_path / "done.csv").touch()
    with pytest.raises(ValueError, match=r"--output .*done.csv: already exists; remove it or give another"):
        run_predict(sentence, tmp_path / "done.csv")


def test_without_the_training_file_the_labels_are_those_of_the_model(general, tmp_path, capsys):
    task = make_task(tmp_path, "entities", general)
    values = json.loads(task.task.read_text())
    values["task"]["train"] = str(tmp_path / "gone.json")
    task.task.write_text(json.dumps(values))
    run_predict(task, tmp_path / "out.jsonl")
    assert "gone.json: name" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    sentence = make_task(tmp_path / "other", "sentence", general)
    AutoModelForSequenceClassification.from_pretrained(general).save_pretrained(sentence.model)
    values = json.loads(sentence.task.read_text())
    values["task"]["train"] = str(tmp_path / "gone.json")
    sentence.task.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"its head has no names for the labels of t; give task.labels, in its order"):
        run_predict(sentence, tmp_path / "second.jsonl")
