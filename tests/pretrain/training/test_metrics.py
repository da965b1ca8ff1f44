"""The metrics file of a resumed run reads as if it had never stopped."""

import errno
import io
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.training.metrics import Metrics, Pace, read_metrics


def write(run, steps, resumed=0):
    metrics = Metrics(run, total_steps=10, step=resumed)
    for step in steps:
        metrics.advance(4)
        metrics.write({"step": step, "a/loss": 1.0 / step})
    metrics.close()


def test_a_resumed_run_drops_lines_after_its_checkpoint(tmp_path):
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
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: must be a JSON object of numbers with a step"):
        read_metrics(tmp_path)


def test_no_metrics_is_an_error_with_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no such file; has the run started\?"):
        read_metrics(tmp_path)
    write(tmp_path, [])
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no steps were logged"):
        read_metrics(tmp_path)


def test_a_run_killed_before_its_first_line_goes_on(tmp_path):
    write(tmp_path, [])
    write(tmp_path, [6], resumed=4)
    assert [line["step"] for line in read_metrics(tmp_path)] == [6]


def kill(*_):
    raise KeyboardInterrupt


def test_a_kill_while_the_file_is_rewritten_loses_no_line(tmp_path, monkeypatch):
    write(tmp_path, [2, 4, 6])
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os if name == "fsync" else Path, name, kill)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, [], resumed=4)
        assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6]


class FullDisk:
    """A file that takes only the first bytes of what is written while `is_full`."""

    def __init__(self, file):
        self.file, self.is_full = file, True

    def write(self, data):
        return self.file.write(data[:5] if self.is_full else data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_lines_wait_for_a_disk_that_is_full_and_none_is_half_written(tmp_path):
    metrics = Metrics(tmp_path, total_steps=10)
    metrics.write({"step": 1})
    metrics._file = FullDisk(metrics._file)
    full = os.strerror(errno.ENOSPC)
    for count in (1, 2):
        with pytest.warns(UserWarning, match=rf"metrics\.jsonl: cannot be written: {full}; {count} line"):
            metrics.write({"step": 1 + count})
        assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    metrics._file.is_full = False
    metrics.write({"step": 4})
    metrics.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_tensorboard_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path, total_steps=10)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(metrics._tensorboard, "add_scalar", fail)
    with pytest.warns(UserWarning, match="tensorboard: no more is written: No space left on device"):
        metrics.write({"step": 1, "a/loss": 1.0})
    metrics.write({"step": 2, "a/loss": 1.0})
    metrics.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_tensorboard_shows_losses_and_probes_first_and_the_configuration_as_text(tmp_path):
    (tmp_path / "config.json").write_text('{\n  "about": "中文"\n}')
    metrics = Metrics(tmp_path, total_steps=10)
    metrics.write({"step": 0, "a/probe/neighbour_accuracy": 0.25})
    values = {"a/loss": 1.0, "b/loss": 2.0, "a/relation/query": 0.5, "a/hidden/0": 0.25, "a/learning_rate": 1e-3}
    metrics.write({"step": 2, "seconds": 9.0} | values | {"a/grad_norm": 3.0, "a/skipped_steps": 0})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert sorted(tags) == [
        "loss/a", "loss/b", "probe/neighbour_accuracy/a", "terms/hidden/0/a", "terms/relation/query/a",
        "training/grad_norm/a", "training/learning_rate/a", "training/seconds", "training/skipped_steps/a",
    ]  # fmt: skip
    assert [(one.step, one.value) for one in events.Scalars("loss/b")] == [(2, 2.0)]
    (tag,) = events.Tags()["tensors"]
    (text,) = events.Tensors(tag)[0].tensor_proto.string_val
    assert tag.startswith("configuration") and text.decode() == '    {\n      "about": "中文"\n    }\n'


PROBED = "step 0: a neighbour_accuracy 0.2500, b neighbour_accuracy 0.5000"


def show(run):
    """A probed step before the first, and two logged ones."""
    metrics = Metrics(run, total_steps=5000)
    metrics.write({"step": 0, "a/probe/neighbour_accuracy": 0.25, "b/probe/neighbour_accuracy": 0.5})
    metrics.write({"step": 1, "a/loss": 1.0, "b/loss": 0.5})
    metrics.advance(4)
    metrics.write({"step": 1000, "a/loss": 0.25, "b/loss": 0.5, "tokens_per_second": 12.0})
    metrics.close()


def test_without_a_terminal_each_logged_step_is_a_line(tmp_path, capsys):
    show(tmp_path)
    steps = ["step 1 of 5000: a 1.0000, b 0.5000", "step 1000 of 5000: a 0.2500, b 0.5000; 12 tokens/s, 22:13 left"]
    assert capsys.readouterr().err.splitlines() == [PROBED, *steps]


def test_on_a_terminal_scores_of_a_probe_stay_above_the_progress_line(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    show(tmp_path)
    lines = terminal.getvalue().split("\n")
    assert any(line.endswith(PROBED) for line in lines) and "step 1000, a 0.2500, b 0.5000, 12 tokens/s]" in lines[-2]
    assert " of 5000" not in terminal.getvalue()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_early_line_leaves_the_first_step_out_and_waits_for_five_seconds():
    clock, said = Clock(), []
    pace = Pace(total_steps=5000, step=100, clock=clock)
    for seconds in (60, 2, 2, 2):  # the first one compiles
        clock.now += seconds
        said.append(pace.line() if pace.advance(4096) else None)
    assert said == [None, "step 102 of 5000: 2.00 s per step, 2,048 tokens/s, 2:43:16 left", None, None]
    pace = Pace(total_steps=5000, step=0, clock=clock)
    said = []
    for _ in range(10):
        clock.now += 1
        said.append(pace.advance(4096))
    assert said.index(True) == 4 and said.count(True) == 1


def test_a_step_of_minutes_is_reported_while_it_runs():
    clock = Clock()
    pace = Pace(total_steps=10, step=0, clock=clock)
    clock.now += 90
    pace.advance(1000)
    clock.now += 30
    assert pace.line() == "step 1 of 10: step 2 has taken 0:30 so far"
    clock.now += 70
    pace.advance(1000)
    clock.now += 65
    assert pace.line() == "step 2 of 10: 100 s per step, 10 tokens/s, 13:20 left; step 3 has taken 1:05 so far"


def test_without_a_terminal_a_minute_without_a_logged_step_gives_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pretrain.progress.Heartbeat.start", lambda self: None)  # its thread's work is done here
    clock = Clock()
    metrics = Metrics(tmp_path, total_steps=1000, clock=clock)
    for step in range(1, 201):
        clock.now += 1
        metrics.advance(4)
        if step % 100 == 0:
            metrics.write({"step": step, "a/loss": 1.0, "tokens_per_second": 100.0})
        metrics._heartbeat.look()
    metrics.close()
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "step 5 of 1000", "step 65 of 1000", "step 100 of 1000", "step 160 of 1000", "step 200 of 1000",
    ]  # fmt: skip
