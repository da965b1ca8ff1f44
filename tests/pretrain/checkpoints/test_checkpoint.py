"""A folder named step_N is complete: leftovers of crashes, the newest checkpoint, contents of a student's folder."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from pretrain.checkpoints.checkpoint import Checkpoints, read_state
from pretrain.checkpoints.student_files import fixed_outputs
from pretrain.durable import seal
from tests.pretrain.tiny import student_config, teacher_model, train


def test_old_checkpoints_go_and_latest_names_the_newest(tmp_path):
    train(tmp_path, 8, save_every_steps=2)
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert [path.name for path in checkpoints.all()] == ["step_4", "step_6", "step_8"]
    assert checkpoints.newest() == tmp_path / "checkpoints" / "step_8"
    state = read_state(checkpoints.newest())
    assert (state.step, state.rows, state.tokens) == (8, 64, sum(12 - row % 3 for row in range(64)))


def test_a_partial_checkpoint_is_passed_over_and_replaced(tmp_path):
    train(tmp_path, 4)
    partial = tmp_path / "checkpoints" / ".step_8.partial"
    partial.mkdir()
    (partial / "rubbish").write_text("from a kill")
    checkpoints = Checkpoints(tmp_path, keep=3)
    (tmp_path / "checkpoints" / "latest").write_text("step_99")  # points at what is not there
    with pytest.warns(UserWarning, match="names .step_99., which does not exist"):
        assert checkpoints.newest().name == "step_4"
    train(tmp_path, 8)
    assert not partial.exists()
    assert not (tmp_path / "checkpoints" / "step_8" / "rubbish").exists()
    assert checkpoints.newest().name == "step_8"


def test_no_checkpoint_holds_the_teacher_and_its_model_loads_alone(tmp_path):
    weights = train(tmp_path, 4)["small"]
    folder = tmp_path / "checkpoints" / "step_4" / "small"
    model = AutoModel.from_pretrained(folder / "model").eval()
    prefix = "encoder.model."
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[prefix + name])
    live = load_file(folder / "outputs.safetensors")
    torch.testing.assert_close(model(input_ids=live["input_ids"]).last_hidden_state, live["last_hidden_state"])
    stored = load_file(folder / "training.safetensors")
    held = {name for name in stored if "/" not in name} | {prefix + name for name in model.state_dict()}
    assert held == weights.keys() | {"num_updates"}
    assert not any("teacher" in name or name.startswith(prefix) for name in stored), "no weight is stored twice"


def test_fixed_outputs_leave_the_mode_of_the_model():
    model = teacher_model().train()
    first, again = fixed_outputs(model), fixed_outputs(model)
    assert model.training
    assert torch.equal(first["last_hidden_state"], again["last_hidden_state"])


def reseal(checkpoint):
    """As if it had been written so."""
    (checkpoint / "files.json").unlink()
    seal(checkpoint)


def test_a_checkpoint_without_the_student_or_with_a_state_that_disagrees_is_named(tmp_path):
    train(tmp_path, 4)
    with pytest.raises(ValueError, match="step_4: contains no student other"):
        train(tmp_path, 8, [student_config("other")])
    checkpoint = tmp_path / "checkpoints" / "step_4"
    state = checkpoint / "state.json"
    state.write_text(state.read_text().replace('"step":4', '"step":3'))
    reseal(checkpoint)
    with pytest.raises(ValueError, match="step_4/small: is at step 4, but the checkpoint is of step 3"):
        train(tmp_path, 8)
    names = {"small/training.json": "cannot be read", "small/training.safetensors": "cannot be read"}
    names |= {"small/model/model.safetensors": "cannot be read", "state.json": "not a readable training state"}
    for name, message in names.items():
        before = (checkpoint / name).read_bytes()
        (checkpoint / name).write_text("{")
        reseal(checkpoint)
        with pytest.raises(ValueError, match=f"step_4/{name}: {message}"):
            train(tmp_path, 8)
        (checkpoint / name).write_bytes(before if name != "state.json" else b"{")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 24}, r"intermediate.dense.bias is \[20\], but \[24\] in this student"),
        ({"num_layers": 1}, "encoder.layer.1.* which this student does not have"),
        ({"num_layers": 3}, "does not contain encoder.model.encoder.layer.2.* which this student has"),
        (
            {"objective": [{"type": "minilm_v2", "num_relation_heads": 4}]},
            "contains exp_avg/.*layer.1.*, which this student does not have",
        ),
    ],
)
def test_a_checkpoint_of_another_student_is_refused_with_the_tensor(tmp_path, changes, message):
    train(tmp_path, 1, save_every_steps=1)
    with pytest.raises(ValueError, match=f"step_1/small: .*{message}"):
        train(tmp_path, 2, [student_config(**changes)])
