"""All cells of an evaluation are computed in one type: configured, that of earlier cells, or the device's best."""

import json

import pytest
import torch

from launch.evaluation import cells
from launch.evaluation.cells import identity, settle_precision
from launch.evaluation.config import Evaluation, EvaluationConfig
from launch.job import machine
from tests.tasks.conftest import first_character, general, wordpiece  # noqa: F401  (fixtures)

CPU = torch.device("cpu")


@pytest.fixture
def settle(tmp_path, monkeypatch):
    """The type that is settled on, for what is asked and what the device has."""

    def run(section: dict, natives: tuple[str, ...]) -> str:
        for module in (cells, machine):
            monkeypatch.setattr(module, "native_dtypes", lambda device: natives)
        monkeypatch.setattr(machine, "slowdown", lambda dtype, device: 70.0)
        values = {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "torch_autocast": section}
        config = EvaluationConfig.model_validate({"deepspeed": values})
        return settle_precision(Evaluation(config, {}, {}, (17,)), tmp_path, CPU).config.deepspeed.torch_autocast.wanted

    return run


@pytest.fixture
def made(tmp_path, first_character, general):  # noqa: F811
    """Notes of what one cell was made from, as this version and as an earlier one wrote them."""
    config = EvaluationConfig.model_validate(
        {"deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4}}
    )
    notes = identity(Evaluation(config, {"a": general}, {"t": first_character}, (17,)), "a", "t")

    def write(**changes: object) -> None:
        folder = tmp_path / "cells/a/t/lr0.1_seed17"
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in notes.items() if name != "precision"}
        (folder / "made_with.json").write_text(json.dumps(kept | changes))

    return write


AUTO = {"enabled": True, "dtype": "auto"}
NEW, PLAIN = ("bfloat16", "float32"), ("float32",)


def test_auto_is_what_the_device_has(settle, recwarn):
    assert [settle(AUTO, NEW), settle(AUTO, PLAIN), settle({"enabled": False}, NEW)] == [
        "bfloat16",
        "float32",
        "float32",
    ]
    assert not recwarn


def test_a_named_type_that_is_emulated_is_warned_of(settle):
    with pytest.warns(UserWarning, match=r"deepspeed.torch_autocast: .* takes 70.0 times as long as in float32"):
        assert settle({"enabled": True, "dtype": "bfloat16"}, PLAIN) == "bfloat16"


def test_cells_that_are_there_decide(settle, made):
    made(precision="float32")
    assert settle(AUTO, NEW) == "float32"
    made(autocast=True)  # an earlier version's note of bfloat16
    assert settle(AUTO, NEW) == "bfloat16"
    made(autocast=False)
    assert settle(AUTO, NEW) == "float32"


def test_cells_that_this_device_would_have_to_emulate_are_refused(settle, made):
    made(precision="bfloat16")
    message = "finished runs used bfloat16, for which CPU, .* has no instructions; give another --output, or --set "
    with pytest.raises(ValueError, match=message + "deepspeed.torch_autocast.dtype=bfloat16 to emulate it"):
        settle(AUTO, PLAIN)
