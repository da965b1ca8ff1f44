"""The type of computation is native to the device; losses stay in float32."""

from types import SimpleNamespace

import pytest
import torch

from pretrain import precision
from pretrain.precision import autocast, choose_dtype, common_dtype, float32_inside, kept_dtype, native_dtypes, slowdown

BFLOAT16_CPU, PLAIN_CPU = ("bfloat16", "float32"), ("float32",)
AMPERE, VOLTA = ("bfloat16", "float16", "float32"), ("float16", "float32")


@pytest.fixture
def cpu(monkeypatch):
    """Sets what torch and oneDNN say of the CPU."""

    def set_capabilities(supported: bool, **capabilities: bool) -> None:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True} | capabilities)
        # torch.ops builds its attributes on the fly, so the whole namespace is replaced
        monkeypatch.setattr(precision.torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: supported))

    return set_capabilities


@pytest.mark.parametrize(
    ("supported", "capabilities", "natives"),
    [
        (True, {"avx512_bf16": True}, BFLOAT16_CPU),
        (True, {"avx512_bf16": False, "amx_bf16": True}, BFLOAT16_CPU),
        (True, {"bf16": True}, BFLOAT16_CPU),  # Arm
        (True, {"avx512_bf16": False}, PLAIN_CPU),  # AVX-512 alone: oneDNN emulates bfloat16 and calls it supported
        (False, {"avx512_bf16": False}, PLAIN_CPU),  # AVX2
        (False, {"avx512_bf16": True}, PLAIN_CPU),  # a build of torch without the kernels
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_multiplies_it(cpu, supported, capabilities, natives):
    cpu(supported, **capabilities)
    assert native_dtypes("cpu") == natives
    assert choose_dtype("auto", "cpu") == natives[0] and choose_dtype("float16", "cpu") == "float16"


@pytest.mark.parametrize(
    ("capability", "natives"),
    [
        ((9, 0), AMPERE),
        ((8, 0), AMPERE),
        ((7, 5), VOLTA),
        ((7, 0), VOLTA),
        ((6, 0), VOLTA),
        ((6, 1), PLAIN_CPU),
        ((5, 2), PLAIN_CPU),
    ],
)
def test_a_gpu_computes_in_the_best_type_of_its_generation(monkeypatch, capability, natives):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_dtypes("cuda:0") == natives


def test_other_devices_compute_in_float32():
    assert native_dtypes("meta") == PLAIN_CPU


@pytest.mark.parametrize(
    ("natives", "common"),
    [
        ([AMPERE, AMPERE], "bfloat16"),
        ([AMPERE, VOLTA], "float16"),
        ([VOLTA, AMPERE], "float16"),
        ([BFLOAT16_CPU, PLAIN_CPU], "float32"),
        ([AMPERE, VOLTA, PLAIN_CPU], "float32"),
    ],
)
def test_devices_of_several_kinds_share_the_best_type_that_all_have(natives, common):
    assert common_dtype(natives) == common


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_autocast_multiplies_in_the_type_and_in_float32_is_off(dtype):
    with autocast(torch.device("cpu"), dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, dtype)
        assert torch.is_autocast_enabled("cpu") == (dtype != "float32")


def test_how_much_slower_a_type_is_is_measured():
    assert slowdown("bfloat16", "cpu") > 0


def test_only_float16_gradients_wait_in_float32():
    kept = [kept_dtype(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    assert kept == [torch.float32, torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("device_type", "lowered", "inside"),
    [("cuda", True, "high"), ("cuda", False, "highest"), ("cpu", True, "highest"), ("cpu", False, "highest")],
)
def test_products_are_tf32_where_a_lower_type_was_allowed(device_type, lowered, inside):
    torch.set_autocast_enabled(device_type, lowered)
    try:
        with pytest.raises(KeyError), float32_inside(device_type):
            assert torch.get_float32_matmul_precision() == inside
            assert not torch.is_autocast_enabled(device_type)
            raise KeyError
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.is_autocast_enabled(device_type) == lowered
    finally:
        torch.set_autocast_enabled(device_type, False)
