"""Names of devices, and an error for GPUs that torch cannot use."""

import pytest
import torch

from pretrain import device
from pretrain.device import check_accelerator, chosen_device, count_devices, cpu_name, device_name, explain_native


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """A machine with two NVIDIA GPUs and driver 535, and a torch that cannot use them."""
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for address in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / address).mkdir(parents=True)
    said = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    (tmp_path / "version").write_text(said)
    monkeypatch.setattr(device, "_GPUS", tmp_path / "gpus")
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)
    return tmp_path


def test_gpus_whose_driver_is_too_old_are_refused(gpus):
    message = (
        r"\(CUDA 13.0\) cannot use them: it needs NVIDIA driver 580 or newer, the installed driver is 535\.104\.05; "
    )
    with pytest.raises(
        ValueError, match=message + "install a newer driver .* or set DS_ACCELERATOR=cpu to train on the CPU"
    ):
        check_accelerator()
    (gpus / "version").unlink()
    with pytest.raises(ValueError, match="the installed driver is of an unknown version"):
        check_accelerator()


@pytest.mark.parametrize(
    ("name", "value"), [("DS_ACCELERATOR", "cpu"), ("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1")]
)
def test_who_asks_for_the_cpu_gets_it(gpus, monkeypatch, name, value, recwarn):
    monkeypatch.setenv(name, value)
    check_accelerator()
    assert not recwarn


def test_a_cpu_build_of_torch_with_gpus_causes_a_warning(gpus, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.warns(UserWarning, match="has NVIDIA GPUs, and torch .* is a build for CPUs: training on the CPU"):
        check_accelerator()


def test_usable_devices_cause_no_message(gpus, monkeypatch, recwarn):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_accelerator()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "_GPUS", gpus / "nowhere")
    check_accelerator()
    assert not recwarn


def test_a_cpu_is_named_with_its_threads(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: AMD EPYC 7B13\n\nprocessor\t: 1\nmodel name\t: X\n"
    )
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "cpuinfo")
    threads = torch.get_num_threads()
    assert device_name("cpu") == f"CPU, AMD EPYC 7B13, {threads} thread{'' if threads == 1 else 's'}"
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "nowhere")  # macOS, or Arm without the line
    assert cpu_name()


def test_devices_are_counted():
    assert count_devices(["NVIDIA H200"] * 8) == "8 x NVIDIA H200"
    assert count_devices(["CPU"]) == "CPU"
    assert count_devices(["A", "B", "A"]) == "2 x A and 1 x B"


def test_the_device_is_the_one_that_deepspeed_takes(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert chosen_device() == torch.device("cpu")
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device() == torch.device("cuda")


@pytest.mark.parametrize(("natives", "said"), [(("float32",), " (no native bfloat16)"), (("bfloat16", "float32"), "")])
def test_a_cpu_without_bfloat16_is_remarked_on(monkeypatch, natives, said):
    monkeypatch.setattr(device, "native_dtypes", lambda _: natives)
    assert explain_native("cpu") == said and explain_native("meta") == ""
