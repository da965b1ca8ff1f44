"""The metrics file reads as if the run had never stopped."""

import pytest

from pretrain.metrics import Metrics, read_metrics


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


def test_a_last_line_cut_by_a_stop_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "a/lo')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:2: the last line is cut short; left out"):
        assert read_metrics(tmp_path) == [{"step": 1.0}]


@pytest.mark.parametrize("line", ['{"step": 2, "a/lo', "[2]", '"step"', '{"loss": 1}', '{"step": 1, "loss": "x"}'])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: want a JSON object of numbers with a step"):
        read_metrics(tmp_path)


def test_no_metrics_is_an_error_with_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no such file; has the run begun\?"):
        read_metrics(tmp_path)
    write(tmp_path, [])
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no steps were logged"):
        read_metrics(tmp_path)
