"""The choice of kernel, and the message if a configured one does not work."""

import importlib.util
import warnings
from types import SimpleNamespace

import pytest
import torch

from pretrain.objectives import kernel_choice
from pretrain.objectives.kernel_choice import triton_problem, use_triton
from pretrain.objectives.relations import MiniLMConfig, MiniLMv2Config
from tests.pretrain.tiny import shape


def pair(device: str = "cpu"):
    """As much of two tensors as the choice looks at."""
    tensor = SimpleNamespace(device=torch.device(device), shape=(2, 9, 24), dtype=torch.bfloat16)
    return tensor, tensor


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that Triton supports, as far as anybody asks; `trials` are what the kernels were tried with."""
    trials = []

    def try_triton(*arguments: object) -> str | None:
        trials.append(arguments)
        return gpu.problem

    gpu = SimpleNamespace(problem=None, trials=trials, capability=(9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: gpu.capability)
    monkeypatch.setattr(kernel_choice, "try_triton", try_triton)
    kernel_choice._warn_once.cache_clear()
    return gpu


def test_auto_is_triton_where_the_trial_succeeds(gpu):
    assert use_triton("auto", pair("cuda"), pair("cuda"), 4)
    model = (24, torch.bfloat16, True)
    assert gpu.trials == [(torch.device("cuda"), model, model, 4, torch.get_float32_matmul_precision())]
    assert not use_triton("portable", pair("cuda"), pair("cuda"), 4)
    assert len(gpu.trials) == 1


def test_auto_is_portable_with_one_warning_where_the_trial_fails(gpu):
    gpu.problem = "OutOfResources: shared memory, Required: 5"
    with pytest.warns(UserWarning, match=r"because the Triton one does not work here: OutOfResources: shared"):
        assert not use_triton("auto", pair("cuda"), pair("cuda"), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not use_triton("auto", pair("cuda"), pair("cuda"), 4)


def test_a_named_kernel_whose_trial_fails_is_refused(gpu):
    gpu.problem = "OutOfResources: shared memory"
    with pytest.raises(ValueError, match="kernel: triton does not work here: OutOfResources: shared memory"):
        use_triton("triton", pair("cuda"), pair("cuda"), 4)


def test_older_gpus_and_cpus_take_the_portable_kernel_and_say_nothing(gpu):
    gpu.capability = (7, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not use_triton("auto", pair("cuda"), pair("cuda"), 4)
        assert not use_triton("auto", pair(), pair(), 4)
    assert gpu.trials == []
    problem = "Triton needs a GPU of compute capability 8.0 or higher, this one has 7.5; use auto or portable"
    assert triton_problem("cuda") == problem


@pytest.mark.parametrize("type_", ["minilm_v2", "minilm"])
def test_a_kernel_that_cannot_run_here_is_refused(monkeypatch, type_):
    kind = MiniLMv2Config if type_ == "minilm_v2" else MiniLMConfig
    config, shapes = kind(type=type_, num_relation_heads=4, kernel="triton"), (shape(), shape(2, 12))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    problem = "Triton is not installed (it comes with the CUDA builds of torch); use auto or portable"
    assert list(config.problems(*shapes)) == [("kernel", problem)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    problem = "Triton needs a GPU (or, to try it, TRITON_INTERPRET=1); use auto or portable"
    assert list(config.problems(*shapes)) == [("kernel", problem)]
    for other in ("auto", "portable"):
        assert not list(config.model_copy(update={"kernel": other}).problems(*shapes))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not list(config.problems(*shapes))
