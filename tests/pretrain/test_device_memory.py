"""Running out of device memory names the key to change."""

import pytest
import torch

from pretrain.device import explain_out_of_memory
from tests.pretrain import tiny


def _fill(rows: int) -> None:
    with explain_out_of_memory({"input_ids": torch.zeros(rows, 12)}):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


def test_the_key_and_a_value_are_named():
    wanted = r"with 6 rows of 12 tokens at once; set deepspeed.train_micro_batch_size_per_gpu to 3 or less.*\(CUDA out"
    with pytest.raises(ValueError, match=wanted):
        _fill(6)
    with pytest.raises(ValueError, match=r"with 1 rows of 12 .* shorter rows \(corpus.row_tokens\) or a larger GPU"):
        _fill(1)


def test_other_faults_pass_through():
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory(tiny.batch()):
        raise RuntimeError("something else")


def test_a_step_that_does_not_fit_ends_the_run_with_it(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")

    monkeypatch.setattr("pretrain.engines.engine.StudentEngine.train_micro_batch", full)
    with pytest.raises(ValueError, match="out of memory with 4 rows of 12 tokens"):
        tiny.train(tmp_path / "run", 1)
