"""The phases of DynaBERT: importance by the labels of training examples, and a teacher of every width's own width."""

import torch
from torch import nn

from pretrain.elastic.rewiring import Importance
from pretrain.elastic.size import Size
from pretrain.elastic.slices import cut_model
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.encoder import Features
from pretrain.models.shape import EncoderShape
from pretrain.ranks.process_group import start_distributed
from pretrain.training.trainer import LoopConfig
from tasks.batches import collate
from tasks.elastic_stage import ElasticStage, ElasticStageConfig, TeachersByWidth, at_depth
from tasks.label_objectives import Labels, LabelsConfig
from tasks.models import load_task_model
from tasks.readers import read_task
from tasks.stage import encode_task
from tests.pretrain.tiny import shape

DEEPSPEED = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "torch_autocast": {"enabled": False}}
CONFIG = {"epochs": 1, "optimizer": {"lr": 1e-3}, "elastic": {"depths": [2], "feed_forward": [8, 16]}}


def save_fine_tuned(folder, task, general):
    """A model with a head, its weights far from their start."""
    model = load_task_model(general, "sentence", task.data.labels, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    return str(folder)


def build(phase, tmp_path, first_character, general):
    task = encode_task(first_character, read_task(first_character), general)
    model, device = save_fine_tuned(tmp_path / "model", task, general), start_distributed()
    config, loop = ElasticStageConfig.model_validate(CONFIG), LoopConfig(log_every_steps=4, seed=3)
    deepspeed = DeepSpeedConfig.model_validate(DEEPSPEED)
    return ElasticStage(phase, tmp_path / phase, task, config, model, "float32", loop, deepspeed, device), model


def importance(model_path, stage):
    model = load_task_model(model_path, "sentence", stage.task.data.labels, 0).eval()
    found = Importance(model)
    for batch in stage._importance_batches():
        labels = batch.pop("labels")
        nn.functional.cross_entropy(model(**batch).logits, labels).backward()
        found.add()
        model.zero_grad()
    return found.layers


def test_neurons_are_sorted_by_the_labels_of_training_examples(tmp_path, first_character, general):
    stage, model = build("width", tmp_path, first_character, general)
    assert [str(size) for size in stage.student.inner.sizes] == ["4x32", "4x16", "4x8"]
    scores = importance(model, stage)
    whole = load_task_model(model, "sentence", stage.task.data.labels, 0).bert.encoder.layer
    for own, before, score in zip(stage.student.encoder.model.bert.encoder.layer, whole, scores, strict=True):
        order = score.argsort(descending=True)
        assert torch.equal(own.output.dense.weight, before.output.dense.weight[:, order])
        assert not torch.equal(order, torch.arange(32))


def test_before_training_the_whole_answers_as_its_teacher(tmp_path, first_character, general):
    """Both losses are at their least: soft labels at the entropy, states at 0."""
    stage, _ = build("width", tmp_path, first_character, general)
    batch = stage._to_device(collate(stage.task.train[:4], 0))
    stage.student.eval()
    loss, terms = stage.student(batch, stage.trainer.teacher(batch))
    assert all(value < 1e-6 for name, value in terms.items() if name.startswith("hidden/"))
    assert terms["loss/4x32"] < min(terms["loss/4x16"], terms["loss/4x8"]) and loss.isfinite()


def test_every_width_learns_from_its_own_width(tmp_path, first_character, general):
    stage, model = build("depth", tmp_path, first_character, general)
    assert len(stage.student.inner.sizes) == 6 and isinstance(stage.trainer.teacher, TeachersByWidth)
    batch = stage._to_device(collate(stage.task.train[:4], 0))
    features = stage.trainer.teacher(batch)
    assert features.by_width.keys() == {8, 16}
    whole = load_task_model(model, "sentence", stage.task.data.labels, 0)
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    for width in (8, 16):
        logits = cut_model(whole, Size(4, width)).eval()(**given).logits
        torch.testing.assert_close(features.by_width[width].logits, logits, rtol=1e-4, atol=1e-5)
    stage.student.eval()
    _, terms = stage.student(batch, features)
    for size, (network, objectives) in stage.student.inner.parts().items():
        target: Features = features.by_width.get(size.feed_forward, features)
        alone = stage.student.loss_of(network, objectives, batch, target)[0]
        torch.testing.assert_close(terms[f"loss/{size}"], alone.detach())


def test_a_sub_network_learns_the_states_of_the_layers_that_it_keeps():
    states = ElasticStageConfig.model_validate(CONFIG).objective[1]
    whole = EncoderShape("bert", 4, 24, 4, 32, 50, 40)
    objective = at_depth(states, 4, 2).build(whole, shape(num_layers=2))
    assert objective.pairs == [(0, 0), (1, 2), (2, 4)]
    assert at_depth(states, 12, 9).layer_map == [1, 2, 4, 5, 6, 8, 9, 10, 12]
    labels = LabelsConfig(type="labels")
    assert at_depth(labels, 4, 2) is labels and isinstance(labels.build(whole, whole), Labels)
