"""All ranks use one precision, native to their devices and kept by a run; deviations are reported."""

import json

import pytest
import torch

from launch.distillation.config import read_run_config
from launch.job import machine
from launch.job.facts import RanOn, read_ran_on
from launch.job.machine import Device, choose, note_machine, settle_precision
from pretrain.ranks.process_group import start_distributed

A100 = Device("NVIDIA A100", ("bfloat16", "float16", "float32"))
V100 = Device("NVIDIA V100", ("float16", "float32"))
PLAIN = Device("CPU, old", ("float32",), " (no native bfloat16)")
BFLOAT16_CPU = Device("CPU, new", ("bfloat16", "float32"))


@pytest.fixture
def settle(config_values, tmp_path, monkeypatch):
    """What a run with these keys settles on as rank 0 beside these devices: (types of teacher and students, note)."""
    start_distributed()
    (tmp_path / "run").mkdir()

    def run(devices, teacher="auto", students="auto"):
        section = {"enabled": students != "float32"} | ({"dtype": students} if students != "float32" else {})
        values = config_values | {"teacher": config_values["teacher"] | {"dtype": teacher}}
        values["deepspeed"] = values["deepspeed"] | {"torch_autocast": section}
        (tmp_path / "given.json").write_text(json.dumps(values))
        monkeypatch.setattr(machine, "gather_objects", lambda own: devices)
        config, ran_on = settle_precision(
            read_run_config(tmp_path / "given.json"), tmp_path / "run", torch.device("cpu")
        )
        return (config.teacher.dtype, config.deepspeed.torch_autocast.wanted), ran_on

    return run


@pytest.mark.parametrize(
    ("devices", "dtype"),
    [([A100], "bfloat16"), ([V100], "float16"), ([PLAIN], "float32"), ([BFLOAT16_CPU], "bfloat16")],
)
def test_auto_is_the_best_native_type_and_is_reported(settle, devices, dtype, capsys, recwarn):
    chosen, ran_on = settle(devices)
    assert chosen == (dtype, dtype) and ran_on.dtypes == {"teacher": dtype, "students": dtype}
    said, types = capsys.readouterr().err, f"teacher in {dtype}, students in {dtype}"
    remark = " (no native bfloat16)" if devices == [PLAIN] else ""
    assert said == f"[rank 0] runs on {devices[0].name}, torch {torch.__version__}; {types}{remark}\n"
    assert not recwarn


def test_ranks_of_several_kinds_agree_and_say_so(settle):
    ranks = r"rank 0 \(NVIDIA A100\): bfloat16; rank 1 \(NVIDIA V100\)"
    with pytest.warns(UserWarning, match=f"have different best types, so all use one that they share: {ranks}"):
        chosen, ran_on = settle([A100, V100])
    assert chosen == ("float16", "float16")
    assert ran_on.device.startswith("1 x NVIDIA A100 and 1 x NVIDIA V100, torch ")


def test_a_type_that_is_named_is_used_with_one_warning_where_it_is_emulated(settle, monkeypatch):
    monkeypatch.setattr(machine, "slowdown", lambda dtype, device: 70.04)
    monkeypatch.setattr(machine, "native_dtypes", lambda device: ("float32",))
    with pytest.warns(UserWarning) as caught:
        chosen, _ = settle([PLAIN, PLAIN], "bfloat16", "bfloat16")
    assert chosen == ("bfloat16", "bfloat16")
    (said,) = [str(one.message) for one in caught]
    assert said.startswith("teacher.dtype, deepspeed.torch_autocast: CPU, ")
    assert said.endswith(
        "has no instructions for bfloat16: a matrix product takes 70.0 times as long as in float32; "
        '"auto" would compute in float32'
    )
    with pytest.warns(UserWarning, match="^deepspeed.torch_autocast: "):
        assert settle([PLAIN], "auto", "float16")[0] == ("float32", "float16")


def test_a_run_keeps_its_precision_where_it_can(settle, tmp_path, capsys, recwarn):
    note_machine(tmp_path / "run", RanOn(device="x", teacher="float32", students="float32"), 0)
    assert settle([BFLOAT16_CPU])[0] == ("float32", "float32")
    kept = "keeps float32, with which the run started; bfloat16 would be better on this device"
    assert f"[rank 0] teacher.dtype: {kept}\n[rank 0] deepspeed.torch_autocast: {kept}\n" in capsys.readouterr().err
    assert not recwarn


def test_a_change_of_precision_causes_a_warning(settle, tmp_path):
    note_machine(tmp_path / "run", RanOn(device="x", teacher="bfloat16", students="bfloat16"), 0)
    change = "teacher.dtype: the run used bfloat16 until now and continues in float32 because not every device has "
    with pytest.warns(UserWarning, match=change + r"bfloat16\. Results are only reproducible bit for bit in the same"):
        assert settle([PLAIN])[0] == ("float32", "float32")
    change = "deepspeed.torch_autocast: .* until now and continues in float32 because the configuration names another"
    with pytest.warns(UserWarning, match=change):
        assert settle([A100], "auto", "float32")[0] == ("bfloat16", "float32")


def test_a_run_of_an_earlier_version_computed_in_what_its_config_names(settle, tmp_path, config_values, capsys):
    before = config_values | {"teacher": {"path": "x", "dtype": "float32"}}
    before["deepspeed"] = before["deepspeed"] | {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    (tmp_path / "run/config.json").write_text(json.dumps(before))
    assert settle([A100])[0] == ("float32", "bfloat16")
    (tmp_path / "run/config.json").write_text(json.dumps(before | {"deepspeed": {"train_batch_size": 8}}))
    assert settle([V100])[0] == ("float32", "float16"), "what it does not name is left to the device"


def test_a_type_is_kept_only_where_all_have_it():
    assert choose("auto", "bfloat16", [A100, BFLOAT16_CPU]) == "bfloat16"
    assert choose("auto", "bfloat16", [A100, V100]) == "float16"
    assert choose("auto", None, [A100, PLAIN]) == "float32"
    assert choose("float16", "bfloat16", [PLAIN]) == "float16"


def test_machines_are_noted_when_they_change(tmp_path):
    first, second = RanOn(device="one", students="float32"), RanOn(device="two", students="bfloat16")
    (tmp_path / "run.json").write_text(json.dumps({"corpus": 1}))
    for step, ran_on in ((0, first), (4, first), (6, second), (9, second), (8, first), (8, second)):
        note_machine(tmp_path, ran_on, step)
    assert [(one.step, one.device) for one in read_ran_on(tmp_path / "run.json")] == [
        (0, "one"),
        (6, "two"),
    ]
    assert json.loads((tmp_path / "run.json").read_text())["corpus"] == 1
