"""A folder named step_N is whole: what a crash leaves, which one is newest, what a published part contains."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from pretrain.checkpoint import Checkpoints, fixed_outputs, read_state
from tests.pretrain.tiny import student_config, teacher_model, train


def test_old_checkpoints_go_and_latest_names_the_newest(tmp_path):
    train(tmp_path, 8, save_every_steps=2)
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert [path.name for path in checkpoints.all()] == ["step_4", "step_6", "step_8"]
    assert checkpoints.newest() == tmp_path / "checkpoints" / "step_8"
    state = read_state(checkpoints.newest())
    assert (state.step, state.rows, state.tokens) == (8, 64, 768)


def test_a_partial_checkpoint_is_passed_over_and_replaced(tmp_path):
    train(tmp_path, 4)
    partial = tmp_path / "checkpoints" / ".step_8.partial"
    partial.mkdir()
    (partial / "rubbish").write_text("from a kill")
    checkpoints = Checkpoints(tmp_path, keep=3)
    (tmp_path / "checkpoints" / "latest").write_text("step_99")  # points at what is not there
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
    stored = torch.load(folder / "engine" / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    assert stored.keys() == weights.keys()
    assert not any("teacher" in name for name in stored)


def test_fixed_outputs_leave_the_mode_of_the_model():
    model = teacher_model().train()
    first, again = fixed_outputs(model), fixed_outputs(model)
    assert model.training
    assert torch.equal(first["last_hidden_state"], again["last_hidden_state"])


def test_a_checkpoint_without_the_student_or_with_a_broken_state_is_named(tmp_path):
    train(tmp_path, 4)
    with pytest.raises(ValueError, match="step_4: holds no student other"):
        train(tmp_path, 8, [student_config("other")])
    state = tmp_path / "checkpoints" / "step_4" / "state.json"
    state.write_text(state.read_text().replace('"step":4', '"step":3'))
    with pytest.raises(ValueError, match="step_4/small: is at step 4, the run at step 3"):
        train(tmp_path, 8)
    state.write_text("{")
    with pytest.raises(ValueError, match=r"step_4/state.json: not a readable training state"):
        train(tmp_path, 8)
