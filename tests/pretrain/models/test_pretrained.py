"""Models are loaded completely from their folders, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.models.pretrained import load_encoder, read_shape
from tasks.models import load_task_model
from tests.pretrain.tiny import batch, teacher_model


def test_an_encoder_is_read_from_its_folder(tmp_path):
    model = teacher_model()
    model.save_pretrained(tmp_path)
    assert read_shape(str(tmp_path)).num_layers == 4
    loaded = load_encoder(str(tmp_path))
    assert loaded.pooler is None
    torch.testing.assert_close(loaded(**batch()).last_hidden_state, model(**batch()).last_hidden_state)


def test_missing_or_unsupported_models_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"^there is no folder '\./nowhere'$"):
        read_shape("./nowhere")
    with pytest.raises(ValueError, match=r"^no model could be loaded from folder '.*': "):
        read_shape(str(tmp_path))
    with pytest.raises(ValueError, match=r"^no model could be loaded from folder or hub id 'no/such': "):
        load_encoder("no/such")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpnet"}))
    with pytest.raises(ValueError, match=r"': model_type 'mpnet' is not supported: its attention does not go through"):
        read_shape(str(tmp_path))


def test_code_in_a_model_folder_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers asks at a terminal
    marker = tmp_path / "it_ran"
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import BertConfig\n"
        f"Path({str(marker)!r}).touch()\nclass Own(BertConfig):\n    model_type = 'own'\n"
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    with pytest.raises(ValueError, match="no model could be loaded from folder"):
        read_shape(str(tmp_path))
    assert not marker.exists()


LOADERS = [load_encoder, lambda path: load_task_model(path, "sentence", ["a", "b"], 0)]


@pytest.mark.parametrize("load", LOADERS)
def test_weights_that_are_not_there_are_not_drawn(tmp_path, load):
    """As in a folder copied in part: each process would have others."""
    teacher_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = [name for name in weights if name.startswith("encoder.layer.3.output")]
    kept = {name: tensor for name, tensor in weights.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"': {len(lost)} weights are missing, such as {sorted(lost)[0]}$"):
        load(str(tmp_path))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("name", "left", "reason"),
    [
        ("model.safetensors", 1000, "Error while deserializing header: .*"),
        ("model.safetensors", 0, "Error while deserializing header: .*"),
        ("pytorch_model.bin", 1000, "PytorchStreamReader failed .*"),
        ("pytorch_model.bin", 3, "Weights only load failed.*"),
        ("pytorch_model.bin", 0, "EOFError"),
    ],
)
def test_truncated_files_are_errors_of_one_line(tmp_path, load, name, left, reason):
    model = teacher_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    if name == "pytorch_model.bin":
        torch.save(model.state_dict(), tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:left])
    with pytest.raises(ValueError, match=rf"^no model could be loaded from folder '{tmp_path}': {reason}$"):
        load(str(tmp_path))


@pytest.mark.parametrize("load", LOADERS)
def test_weights_of_another_size_than_the_config_says_are_refused(tmp_path, load):
    teacher_model().save_pretrained(tmp_path)
    teacher_model(intermediate_size=40).config.save_pretrained(tmp_path)
    name = "encoder.layer.0.intermediate.dense.bias"
    with pytest.raises(ValueError, match=rf"': its config says that (bert\.)?{name} is \[40\], but it is \[32\]$"):
        load(str(tmp_path))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, load, value):
    model = teacher_model()
    with torch.no_grad():
        model.pooler.dense.bias[0] = value
        model.save_pretrained(tmp_path)
        load(str(tmp_path))
        model.encoder.layer[1].output.dense.weight[3, 2] = value
    model.save_pretrained(tmp_path)
    said = r"': (bert\.)?encoder\.layer\.1\.output\.dense\.weight contains numbers that are not finite$"
    with pytest.raises(ValueError, match=said):
        load(str(tmp_path))
