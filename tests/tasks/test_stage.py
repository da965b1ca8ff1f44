"""A stage learns, resumes exactly after a stop, and raises errors for unsuitable models."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.encoder import Features, without_padding
from pretrain.quantization import Rounding
from pretrain.ranks.process_group import start_distributed
from pretrain.students.initialization import map_back
from pretrain.training.trainer import LoopConfig
from tasks.batches import collate
from tasks.models import check_head, load_task_model
from tasks.readers import read_task
from tasks.rows import without_labels
from tasks.stage import Stage, StageConfig, encode_task
from tests.pretrain.tiny import teacher_model

LABELS = [{"type": "labels"}]
DEEPSPEED = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "torch_autocast": {"enabled": False}}


@pytest.fixture(scope="module")
def task(first_character, general):
    return encode_task(first_character, read_task(first_character), general)


def stage(
    run, task, student, teacher=None, objective=LABELS, epochs=12, seed=3, stop_at=None, dropout_prob=0.1, ratio=1,
    adversarial=None, quantization=None, **engine,
):  # fmt: skip
    """On one rank; asks to stop after so many steps."""
    device, asked = start_distributed(), []

    def stop_requested() -> int:
        asked.append(1)
        return 15 if stop_at and len(asked) > stop_at else 0

    optimizer = {"lr": 3e-3, "head_lr_ratio": ratio}
    values = {"epochs": epochs, "dropout_prob": dropout_prob, "optimizer": optimizer, "objective": objective}
    config = StageConfig.model_validate(values | {"adversarial": adversarial, "quantization": quantization})
    loop = LoopConfig(log_every_steps=4, save_every_steps=100, seed=seed)
    deepspeed = DeepSpeedConfig.model_validate(DEEPSPEED | engine)
    return Stage(run, "s", task, config, student, teacher, "float32", loop, deepspeed, device, stop_requested)


def dev_scores(one):
    return one.score(one.task.dev, one.task.data.dev)


def weights(one):
    return {name: tensor.clone() for name, tensor in one.student.state_dict().items()}


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory, task, general):
    """The stage and the folder of its model."""
    run = tmp_path_factory.mktemp("ft")
    one = stage(run / "run", task, general)
    assert one.trainer.train() == 0
    one.student.published.save_pretrained(run / "model")
    return one, str(run / "model")


def test_fine_tuning_learns_and_scores_it(fine_tuned):
    assert dev_scores(fine_tuned[0]) == {"accuracy": 1.0, "f1": 1.0, "macro_f1": 1.0}


def test_the_published_model_answers_as_the_live_one_did(fine_tuned, task):
    one, folder = fine_tuned
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert [model.config.id2label[index] for index in (0, 1)] == list(task.data.labels)
    row = task.dev[0]
    ids = torch.tensor([row.input_ids])
    theirs = model(input_ids=ids).logits
    one.student.eval()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        torch.testing.assert_close(one._logits(one.student.encoder, batch), theirs)


def test_stopped_and_resumed_equals_uninterrupted(fine_tuned, tmp_path, task, general):
    stopped = stage(tmp_path, task, general, stop_at=5)
    assert stopped.trainer.train() == 15
    assert 0 < stopped.trainer.state.step < 48
    resumed = stage(tmp_path, task, general)
    assert resumed.trainer.state.step == stopped.trainer.state.step
    assert resumed.trainer.train() == 0
    ours, theirs = weights(resumed), weights(fine_tuned[0])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("adversarial", [{"type": "fgm"}, {"type": "pgd", "num_steps": 2}], ids=["fgm", "pgd"])
def test_an_adversarial_stage_resumes_exactly_and_is_the_same_at_any_zero_stage(adversarial, tmp_path, task, general):
    def train(run, stop_at=None, zero=0):
        keys = {"zero_optimization": {"stage": zero}}
        one = stage(tmp_path / run, task, general, epochs=2, stop_at=stop_at, adversarial=adversarial, **keys)
        assert one.trainer.train() == (15 if stop_at else 0)
        return weights(one)

    whole, _, resumed = train("whole"), train("stopped", stop_at=3), train("stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for zero in (1, 2):
        sharded = train(f"zero{zero}", zero=zero)
        for name in whole:
            torch.testing.assert_close(sharded[name], whole[name], atol=2e-4, rtol=1e-3)
    clean = weights(stage(tmp_path / "clean", task, general, epochs=2))
    assert not torch.equal(clean["encoder.model.classifier.weight"], whole["encoder.model.classifier.weight"])


@pytest.mark.parametrize("adversarial", [None, {"type": "fgm"}])
def test_a_stage_ends_with_rounded_numbers_and_is_scored_so(adversarial, tmp_path, task, general):
    def train(run, stop_at=None, **keys):
        one = stage(tmp_path / run, task, general, epochs=1, stop_at=stop_at, adversarial=adversarial, **keys)
        assert one.trainer.train() == (15 if stop_at else 0)
        return one

    rounds = {"quantization": {"weights": 8, "begin": 0.5}}
    whole = train("whole", **rounds)
    train("stopped", stop_at=1, **rounds)
    resumed, again = train("stopped", **rounds), train("stopped", **rounds)
    rows = task.dev[:2]
    batch = collate(rows, task.tokenizer.pad_token_id)
    for one in (resumed, again):
        assert all(torch.equal(tensor, weights(one)[name]) for name, tensor in weights(whole).items())
        one.student.eval()
        with torch.no_grad():
            found, plain = one._logits(one.student.encoder, batch), one.student.published(**batch).logits
            with Rounding(8):
                rounded = one.student.published(**without_padding(batch)).logits
        torch.testing.assert_close(found, rounded)
        assert not torch.allclose(found, plain, atol=1e-4)
    assert any(not torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(train("plain")).items())


@pytest.mark.parametrize("ratio", [1, 20])
def test_pooler_and_head_have_the_configured_learning_rate(tmp_path, task, general, ratio):
    """AdamW's first step moves a weight by its learning rate, less where its gradient is next to nothing."""
    one = stage(tmp_path, task, general, epochs=0.01, ratio=ratio)
    before = weights(one)
    assert one.trainer.train() == 0 and one.trainer.state.step == 1
    moved = {name: (weight - before[name]).abs().max().item() for name, weight in weights(one).items()}
    heads = {name for name in moved if ".pooler." in name or ".classifier." in name}
    assert len(heads) == 4
    for name in heads:
        assert moved[name] == pytest.approx(3e-3 * ratio, rel=0.02), name
    assert max(moved[name] for name in moved.keys() - heads) == pytest.approx(3e-3, rel=0.02)


def test_dropout_is_that_of_the_config_and_on(tmp_path, task, general):
    batch = collate(task.train, task.tokenizer.pad_token_id)

    def losses(dropout_prob):
        one = stage(tmp_path, task, general, dropout_prob=dropout_prob)
        for seed in (1, 2):
            torch.manual_seed(seed)
            yield one.student(batch, Features())[0].item()

    assert len(set(losses(0.1))) == 2 and len(set(losses(0.0))) == 1


def test_projections_to_the_teachers_width_start_where_the_embeddings_are(fine_tuned, tmp_path, task, general):
    values = AutoConfig.from_pretrained(general)
    values.hidden_size //= 2
    AutoModel.from_config(values).save_pretrained(tmp_path / "narrow")
    folder, objective = str(tmp_path / "narrow"), [{"type": "hidden_states"}]
    one = stage(tmp_path / "td1", task, folder, fine_tuned[1], objective)
    teacher, student = (AutoModel.from_pretrained(path) for path in (fine_tuned[1], folder))
    starts = [module.weight for module in one.student.objectives.modules() if isinstance(module, torch.nn.Linear)]
    assert starts
    torch.testing.assert_close(starts, [map_back(teacher, student)] * len(starts))


def test_only_the_student_moves_and_it_comes_near_its_teacher(fine_tuned, tmp_path, task, general, monkeypatch):
    objective = [*LABELS, {"type": "soft_labels"}]
    monkeypatch.setattr(Stage, "_ask", lambda *_: None)  # else the teacher answers once and is gone
    one = stage(tmp_path / "td2", task, general, fine_tuned[1], objective, seed=4)
    teacher = one.trainer.teacher
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    one.trainer.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert dev_scores(one)["accuracy"] == 1.0
    with torch.no_grad():
        logits = teacher(collate(task.train, task.tokenizer.pad_token_id)).logits.float()
    least = float(-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean())  # the teacher's own entropy
    lines = [json.loads(line) for line in (tmp_path / "td2/metrics.jsonl").read_text().splitlines()]
    first, last = (line["s/soft_labels"] - least for line in (lines[0], lines[-1]))
    assert 0 <= last < 0.2 * first


def test_relations_alone_leave_the_head_as_it_was(fine_tuned, tmp_path, task, general):
    relations = [{"type": "minilm_v2", "num_relation_heads": 4}]
    one = stage(tmp_path / "td1", task, general, fine_tuned[1], relations, epochs=1)
    assert any(name.startswith("classifier") for name in one.unreached)
    before = weights(one)
    one.trainer.train()
    after = weights(one)
    head = [name for name in before if ".classifier." in name]
    assert head and all(torch.equal(before[name], after[name]) for name in head)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="s: no objective trains its head, so it cannot be scored"):
        dev_scores(one)


def test_a_new_head_is_the_same_for_the_same_seed(general):
    first, again, other = (load_task_model(general, "sentence", ["a", "b"], seed) for seed in (1, 1, 2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_models_that_cannot_serve_are_refused(general, fine_tuned, tmp_path):
    with pytest.raises(ValueError, match=r"has no head for this task; fine-tune it first"):
        load_task_model(general, "sentence", ["a", "b"], 0, needs_head=True)
    with pytest.raises(ValueError, match=r"its head is for the labels 地, 天; this task has a, b"):
        load_task_model(fine_tuned[1], "sentence", ["a", "b"], 0)
    with pytest.raises(ValueError, match=r"there is no folder '.*none'"):
        load_task_model(str(tmp_path / "none"), "sentence", ["a", "b"], 0)
    with pytest.raises(
        ValueError, match=r"is a BertForSequenceClassification, which cannot be used for a task of kind entities"
    ):
        load_task_model(fine_tuned[1], "entities", ["a"], 0)
    AutoConfig.from_pretrained(general).save_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no model could be loaded from folder '.*empty': "):
        load_task_model(str(tmp_path / "empty"), "sentence", ["a", "b"], 0)
    check_head(fine_tuned[1], "sentence", ["地", "天"], needs_head=True)
    with pytest.raises(ValueError, match=r"has no head for this task; fine-tune it first"):
        check_head(general, "sentence", ["地", "天"], needs_head=True)


@pytest.mark.parametrize("kind", ["entities", "reading"])
def test_other_kinds_have_their_own_heads(general, kind):
    model = load_task_model(general, kind, ["name"] if kind == "entities" else [], 0)
    assert isinstance(model.base_model, AutoModel.from_pretrained(general).__class__)
    assert model.config.num_labels == (3 if kind == "entities" else 2)


def test_reading_has_two_outputs_whatever_the_encoder_was_once_used_for(general, tmp_path):
    model = AutoModel.from_pretrained(general)
    model.config.id2label = {index: str(index) for index in range(15)}
    model.save_pretrained(tmp_path)
    assert load_task_model(str(tmp_path), "reading", [], 0).qa_outputs.out_features == 2


@pytest.mark.parametrize("family", ["modernbert", "eurobert", "nomic_bert", "deberta-v2", "roformer", "qwen3"])
def test_students_of_any_family_learn_a_task_from_any_teacher(tmp_path, first_character, wordpiece, family):
    for name in (family, "bert"):
        teacher_model(name, vocab_size=len(wordpiece), initializer_range=0.1, pad_token_id=0).save_pretrained(
            tmp_path / name
        )
        wordpiece.save_pretrained(tmp_path / name)
    task = encode_task(first_character, read_task(first_character), str(tmp_path / family))
    for student, teacher in ((family, "bert"), ("bert", family)):
        large = stage(tmp_path / f"large_{teacher}", task, str(tmp_path / teacher), epochs=1)
        assert large.trainer.train() == 0
        large.student.published.save_pretrained(tmp_path / "large")
        objective = [{"type": "soft_labels"}, {"type": "hidden_states", "embeddings": False}]
        one = stage(
            tmp_path / student / "run", task, str(tmp_path / student), str(tmp_path / "large"), objective, epochs=2
        )
        assert one.trainer.train() == 0
        lines = (tmp_path / student / "run" / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["s/loss"] for line in lines]
        assert losses[-1] < losses[0]


def test_only_stages_with_a_teacher_read_texts_without_labels(fine_tuned, tmp_path, task, general):
    more = dataclasses.replace(task, unlabelled=list(map(without_labels, task.train * 3)))
    assert stage(tmp_path / "ft", more, general).trainer.config.total_steps == 12 * 4
    soft = [*LABELS, {"type": "soft_labels"}]
    whole = stage(tmp_path / "whole", more, general, fine_tuned[1], soft, epochs=1)
    assert whole.trainer.config.total_steps == 4 * 4
    assert whole.trainer.train() == 0
    stopped = stage(tmp_path / "stopped", more, general, fine_tuned[1], soft, epochs=1, stop_at=3)
    assert stopped.trainer.train() == 15
    resumed = stage(tmp_path / "stopped", more, general, fine_tuned[1], soft, epochs=1)
    assert resumed.trainer.train() == 0
    assert all(torch.equal(one, weights(whole)[name]) for name, one in weights(resumed).items())
