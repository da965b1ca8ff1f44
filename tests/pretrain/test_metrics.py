"""The metrics file reads as if the run had never stopped."""

import pytest

from pretrain.metrics import Metrics, read_metrics, require_finite


def write(run, steps, resumed=0):
    metrics = Metrics(run, total_steps=10, tokens_per_step=4, step=resumed)
    for step in steps:
        metrics.advance()
        metrics.write({"step": step, "a/loss": 1.0 / step})
    metrics.close()


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    write(tmp_path, [2, 4, 6])
    write(tmp_path, [6, 8], resumed=4)
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6, 8]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, [2, 4])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [line["step"] for line in read_metrics(tmp_path)] == [2]


def test_no_metrics_is_an_error_with_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"no logged step in metrics.jsonl"):
        read_metrics(tmp_path)


def test_every_value_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="step 3: not finite: a/loss, b/loss"):
        require_finite({"a/loss": float("nan"), "b/loss": float("inf"), "c/loss": 1.0}, 3)
    require_finite({"c/loss": 1.0}, 3)
