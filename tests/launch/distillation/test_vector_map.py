"""Vectors of the teacher are those that its files make, through linear maps after the pooling."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launch.distillation.config import read_run_config
from launch.distillation.session import distil_alone
from launch.distillation.vector_map import read_vector_map, warn_of_other_maps
from pretrain.models.encoder import Features
from pretrain.objectives.sentence import SentenceConfig
from pretrain.training.metrics import read_metrics
from tests.launch.conftest import with_pooling
from tests.pretrain.tiny import feature_batch, features, shape

IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.fixture
def values(tmp_path, config_values, teacher_folder):
    """A run on text vectors of a teacher whose folder has two maps after the mean, 24 -> 6 -> 24."""
    folder = with_pooling(teacher_folder, tmp_path / "own")
    values = copy.deepcopy(config_values)
    values["corpus"] |= {"rows": "texts"}
    values["teacher"]["path"] = str(folder)
    values["students"] = values["students"][:1]
    values["students"][0] |= {"objective": [{"type": "sentence", "pooling": "mean"}]}
    values["training"] = {"total_steps": 2, "log_every_steps": 1, "save_every_steps": 2}
    values["deepspeed"]["torch_autocast"] = {"enabled": False}
    return values


def put_maps(values, *weights, activation=IDENTITY):
    folder, listed = Path(values["teacher"]["path"]), [("", "Transformer"), ("1_Pooling", "Pooling")]
    for number, weight in enumerate(weights, start=2):
        own = folder / f"{number}_Dense"
        own.mkdir()
        (own / "config.json").write_text(json.dumps({"bias": False, "activation_function": activation}))
        save_file({"linear.weight": weight}, own / "model.safetensors")
        listed.append((own.name, "Dense"))
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in listed]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_linear_maps_after_the_pooling_are_one(values, tmp_path):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(6, 24, generator=generator), torch.randn(24, 6, generator=generator)
    before = read_run_config(values)
    assert read_vector_map(before) is None
    assert not distil_alone(values, tmp_path / "plain")
    put_maps(values, first, second)
    torch.testing.assert_close(read_vector_map(read_run_config(values)), second @ first)
    assert not distil_alone(values, tmp_path / "mapped")
    losses = [read_metrics(tmp_path / name)[0]["small/sentence/cosine"] for name in ("plain", "mapped")]
    assert losses[0] != losses[1]


def test_the_objective_compares_mapped_vectors():
    objective = SentenceConfig(type="sentence", pooling="mean").build(shape(), shape(2, 24))
    teacher, student, batch = features(4, 24, 0), features(2, 24, 1), feature_batch()
    linear = torch.randn(24, 24, generator=torch.Generator().manual_seed(2))
    mapped = Features(hidden_states={4: teacher.hidden_states[4] @ linear.T})  # the map of the mean is the mean of maps
    teacher.vector_map = linear
    found, wanted = (objective(one, student, batch)["sentence/cosine"] for one in (teacher, mapped))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("shape_of_map", "activation", "reason"),
    [
        ((6, 24), IDENTITY, "its vectors have width 6, its states 24"),
        ((24, 24), "torch.nn.modules.activation.Tanh", "Dense after the pooling is more than linear maps without bias"),
    ],
)
def test_what_else_follows_the_pooling_is_left_out_with_a_warning(values, shape_of_map, activation, reason):
    put_maps(values, torch.ones(shape_of_map), activation=activation)
    config = read_run_config(values)
    assert read_vector_map(config) is None
    message = "teacher.path: students learn the vectors before what follows the teacher's pooling: .*"
    with pytest.warns(UserWarning, match=message + reason):
        warn_of_other_maps(config)
