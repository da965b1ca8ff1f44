"""Models come whole from their folders, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.pretrained import load_encoder, read_shape
from tasks.models import load_task_model
from tests.pretrain.tiny import batch, teacher_model


def test_an_encoder_is_read_from_its_folder(tmp_path):
    model = teacher_model()
    model.save_pretrained(tmp_path)
    assert read_shape(str(tmp_path)).num_layers == 4
    loaded = load_encoder(str(tmp_path))
    assert loaded.pooler is None
    torch.testing.assert_close(loaded(**batch()).last_hidden_state, model(**batch()).last_hidden_state)


def test_what_is_not_there_or_not_supported_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"^there is no folder '\./nowhere'$"):
        read_shape("./nowhere")
    with pytest.raises(ValueError, match=r"^no model could be loaded from folder '.*': "):
        read_shape(str(tmp_path))
    with pytest.raises(ValueError, match=r"^no model could be loaded from folder or hub id 'no/such': "):
        load_encoder("no/such")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"': model_type 'gpt2' is not supported; supported are bert, "):
        read_shape(str(tmp_path))


@pytest.mark.parametrize("load", [load_encoder, lambda path: load_task_model(path, "sentence", ["a", "b"], 0)])
def test_weights_that_are_not_there_are_not_drawn(tmp_path, load):
    """As in a folder copied in part: each process would have others."""
    teacher_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = [name for name in weights if name.startswith("encoder.layer.3.output")]
    kept = {name: tensor for name, tensor in weights.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"': {len(lost)} weights are not in it, such as {sorted(lost)[0]}$"):
        load(str(tmp_path))
