"""A BiLSTM equals torch's LSTM a text at a time, learns as any student does, and is saved without a pickle."""

import copy
import json

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.pretrained import load_encoder, read_shape
from pretrain.students.initialization import embedding_basis
from tasks import bilstm
from tasks.batches import collate
from tasks.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification, BiLSTMSizes, build_bilstm
from tasks.config import TaskConfig
from tasks.models import check_head, load_task_model
from tasks.readers import encode, read_task
from tasks.stage import encode_task
from tests.pretrain.tiny import teacher_model
from tests.tasks.conftest import build_unigram, build_wordpiece
from tests.tasks.test_stage import LABELS, dev_scores, stage, weights

SEPARATOR, VOCAB = 3, 40
SIZES = {"embedding_size": 10, "hidden_size": 6}


def classifier(kind="sentence", num_layers=1, **sizes):
    torch.manual_seed(0)
    values = {
        "vocab_size": VOCAB,
        "num_layers": num_layers,
        "kind": kind,
        "separator": SEPARATOR,
        "num_labels": 3,
        "initializer_range": 1.0,
    }
    return BiLSTMForSequenceClassification(BiLSTMConfig(**(SIZES | values | sizes))).eval()


def texts(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, VOCAB, (length,), generator=generator) for length in lengths]


def padded(rows, width=0):
    """Rows as a batch; padding is filled with tokens, so that reading it would show."""
    width = max([width, *map(len, rows)])
    ids = torch.full((len(rows), width), 7)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    return {"input_ids": ids, "attention_mask": mask.long()}


def reference(model, ids):
    """The largest states of one text by torch's LSTM, in float64."""
    copied = copy.deepcopy(model.bilstm).double()
    return copied.lstm(copied.word_embeddings(ids).unsqueeze(0))[0][0].max(0).values


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_text_is_read_as_by_torchs_lstm_alone(num_layers):
    model, rows = classifier(num_layers=num_layers), texts([5, 1, 9, 3])
    with torch.no_grad():
        found = model(**padded(rows, 12)).logits
        for row, logits in zip(rows, found, strict=True):
            expected = model.classifier.double()(reference(model, row))
            torch.testing.assert_close(logits.double(), expected, atol=1e-6, rtol=1e-5)
            model.classifier.float()
    assert (found - found[:1]).abs()[1:].amax(1).min() > 1e-3


def test_two_texts_are_read_apart_and_put_together():
    model, (a, b, c, d) = classifier("pair"), texts([4, 2, 1, 7])
    end = torch.tensor([SEPARATOR])
    rows = [torch.cat([a, end, b, end]), torch.cat([c, end, end, d, end])]  # the second as XLM-R separates texts
    parts = [(torch.cat([a, end]), torch.cat([b, end])), (torch.cat([c, end]), torch.cat([end, d, end]))]
    with torch.no_grad():
        found = model(**padded(rows, 20)).logits.double()
        for logits, (first, second) in zip(found, parts, strict=True):
            u, v = reference(model, first), reference(model, second)
            together = torch.cat([u, v, u * v, (u - v).abs()])
            expected = nn.functional.linear(together, model.classifier.weight.double(), model.classifier.bias.double())
            torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sentence", "pair"])
def test_padding_and_the_other_rows_of_a_batch_change_nothing(kind):
    model, rows = classifier(kind), texts([6, 1, 11, 2], seed=1)
    rows = [torch.cat([row, torch.tensor([SEPARATOR]), row.flip(0)]) for row in rows]
    with torch.no_grad():
        alone = torch.cat([model(row.unsqueeze(0)).logits for row in rows])
        for batch in (padded(rows), padded(rows, 40)):
            torch.testing.assert_close(model(**batch).logits, alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model(**padded(rows[::-1])).logits.flip(0), alone, atol=1e-6, rtol=1e-5)
    model(**padded(rows, 40)).logits.sum().backward()
    assert not model.bilstm.word_embeddings.weight.grad[torch.cat(rows).unique()].eq(0).all()
    if 7 not in torch.cat(rows):
        assert not model.bilstm.word_embeddings.weight.grad[7].any()


def test_rows_without_a_second_text_or_any_token_have_finite_answers():
    model, batch = classifier("pair"), padded(texts([5, 5]))
    batch["attention_mask"][1] = 0
    logits = model(**batch).logits
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("build", [build_wordpiece, build_unigram])
def test_pairs_are_told_apart_in_the_rows_of_either_tokenizer(build, tmp_path):
    """An empty second text too."""
    path, tokenizer = tmp_path / "data.json", build()
    records = [{"a": "天地玄黄", "b": "宇宙", "label": 0}, {"a": "天", "b": "", "label": 1}]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    columns = {"text": "a", "text_b": "b"}
    task = TaskConfig(name="t", kind="pair", train=str(path), dev=str(path), columns=columns)
    data = read_task(task)
    batch = collate(encode(data.dev, task, data.labels, tokenizer).rows, tokenizer.pad_token_id)
    model = classifier("pair", vocab_size=len(tokenizer), separator=tokenizer.sep_token_id)
    seen = []
    model.bilstm.lstm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(batch["input_ids"], batch["attention_mask"])
        words = nn.utils.rnn.pad_packed_sequence(seen[0], batch_first=True)
        for row, text in enumerate(["天地玄黄", "天", "宇宙", ""]):
            ids = tokenizer(text)["input_ids"]
            read = words[0][row, : words[1][row]]
            expected = model.bilstm.word_embeddings(torch.tensor(ids if row < 2 else ids[1:]))
            torch.testing.assert_close(read[-len(expected) :], expected)
            assert 0 <= len(read) - len(expected) <= 1  # XLM-R's second separator stands before the second text


@pytest.mark.parametrize("width", [10, 24, 30])
def test_embeddings_begin_at_the_teachers_principal_components(general, width):
    sizes = BiLSTMSizes(embedding_size=width, hidden_size=6)
    first, again = (build_bilstm(sizes, "sentence", general, None, seed=1) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    other = build_bilstm(sizes, "sentence", general, None, seed=2)
    assert not torch.equal(first.lstm.weight_ih_l0, other.lstm.weight_ih_l0)
    words = load_encoder(general).get_input_embeddings().weight.detach()
    found = first.word_embeddings.weight
    assert found.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)
    if width <= words.shape[1]:
        expected = words @ embedding_basis(words, width)
        torch.testing.assert_close(found, expected / expected.square().mean().sqrt())
    else:  # rotated: angles are kept
        alike = [torch.nn.functional.normalize(one[:50]) for one in (found, words)]
        torch.testing.assert_close(alike[0] @ alike[0].T, alike[1] @ alike[1].T, atol=1e-5, rtol=1e-4)
    random = build_bilstm(sizes.model_copy(update={"embeddings": "scratch"}), "sentence", general, None, seed=1)
    assert random.word_embeddings.weight.std().item() == pytest.approx(1, abs=1e-2)
    assert torch.cosine_similarity(random.word_embeddings.weight, found).abs().mean() < 0.5


@pytest.fixture(scope="module")
def task(first_character, general):
    return encode_task(first_character, read_task(first_character), general)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, general, wordpiece):
    """The folder of a BiLSTM before any stage."""
    folder = tmp_path_factory.mktemp("begun")
    sizes = BiLSTMSizes(embedding_size=16, hidden_size=12)
    build_bilstm(sizes, "sentence", general, wordpiece.sep_token_id, seed=1).save_pretrained(folder)
    wordpiece.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, task, general):
    """The folder of a fine-tuned teacher."""
    run = tmp_path_factory.mktemp("teacher")
    one = stage(run / "run", task, general)
    assert one.trainer.train() == 0
    one.student.published.save_pretrained(run / "model")
    return str(run / "model")


def train(run, task, begun, *args, stop_at=None, **keys):
    one = stage(run, task, begun, *args, stop_at=stop_at, **({"epochs": 3} | keys))
    assert one.trainer.train() == (15 if stop_at else 0)
    return one


DISTILLED = {
    "soft_labels": [{"type": "soft_labels", "temperature": 4.0}],
    "logits_mse": [{"type": "logits_mse"}, {"type": "labels"}],
}


@pytest.mark.parametrize("objective", [LABELS, *DISTILLED.values()], ids=["labels", *DISTILLED])
def test_it_learns_from_labels_and_from_a_teacher(tmp_path, task, begun, teacher, objective):
    one = train(tmp_path, task, begun, teacher, objective, epochs=12)
    assert dev_scores(one)["accuracy"] == 1.0 and one.unreached == []
    losses = [json.loads(line)["s/loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("adversarial", [None, {"type": "fgm"}], ids=["plain", "fgm"])
def test_stopped_and_resumed_equals_uninterrupted_at_any_zero_stage(tmp_path, task, begun, teacher, adversarial):
    keys = {"objective": DISTILLED["soft_labels"], "teacher": teacher, "adversarial": adversarial}
    whole = weights(train(tmp_path / "whole", task, begun, **keys))
    train(tmp_path / "stopped", task, begun, stop_at=4, **keys)
    resumed = weights(train(tmp_path / "stopped", task, begun, **keys))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    sharded = weights(train(tmp_path / "zero", task, begun, zero_optimization={"stage": 2}, **keys))
    for name in whole:
        torch.testing.assert_close(sharded[name], whole[name], atol=2e-4, rtol=1e-3)
    before = weights(stage(tmp_path / "before", task, begun))
    assert not torch.equal(
        before["encoder.model.bilstm.lstm.weight_hh_l0"], whole["encoder.model.bilstm.lstm.weight_hh_l0"]
    )


def test_low_precision_trains(tmp_path, task, begun):
    one = train(tmp_path, task, begun, torch_autocast={"enabled": True, "dtype": "bfloat16"}, epochs=6)
    assert dev_scores(one)["accuracy"] > 0.9


def test_a_cpu_that_emulates_the_wanted_type_computes_the_lstm_in_float32(monkeypatch, begun):
    """oneDNN refuses an LSTM in bfloat16 there."""
    model = AutoModelForSequenceClassification.from_pretrained(begun).bilstm.eval()
    vectors, mask = torch.randn(2, 5, model.config.embedding_size), torch.ones(2, 5, dtype=torch.bool)
    expected = model.states(vectors, mask)
    monkeypatch.setattr(bilstm, "native_dtypes", lambda device: ("float32",))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.states(vectors, mask)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_what_is_saved_loads_by_its_path_and_answers_as_the_live_one(tmp_path, task, begun):
    one = train(tmp_path / "run", task, begun)
    one.student.published.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    batch = collate(task.dev, task.tokenizer.pad_token_id)
    one.student.eval()
    with torch.no_grad():
        expected = model(batch["input_ids"], batch["attention_mask"]).logits
        assert torch.equal(one._logits(one.student.encoder, batch), expected)
    assert [model.config.id2label[index] for index in (0, 1)] == list(task.data.labels)
    assert "auto_map" not in json.loads((tmp_path / "model/config.json").read_text())
    check_head(str(tmp_path / "model"), "sentence", task.data.labels, needs_head=True)
    again = load_task_model(str(tmp_path / "model"), "sentence", task.data.labels, 0, needs_head=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_it_is_refused_where_layers_are_read(begun, general):
    assert not read_shape(begun, needs_layers=False).has_layers
    with pytest.raises(ValueError, match=r"a bilstm has no layers to read: it can be the student of launch/td.py, lab"):
        read_shape(begun)
    for reads in (Reads(hidden_states=frozenset({0}), logits=True), Reads(projections=frozenset({1}))):
        with pytest.raises(ValueError, match=r"^a bilstm has no layers to read, only predictions$"):
            Encoder(AutoModel.from_pretrained(begun), reads)
    for kind, labels in (("pair", ["a", "b"]), ("entities", ["a"])):
        with pytest.raises(ValueError, match=rf"is a BiLSTM for tasks of kind sentence, not {kind}$"):
            check_head(begun, kind, labels)
    with pytest.raises(ValueError, match=r"its tokenizer has no sep_token, by which a BiLSTM tells the two texts"):
        build_bilstm(BiLSTMSizes(), "pair", general, None, 0)
    assert AutoConfig.from_pretrained(general).model_type == "bert" and teacher_model() is not None
