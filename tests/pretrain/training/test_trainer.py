"""The promises of a run, on real DeepSpeed engines: resumed == uninterrupted, with others == alone, 2 ranks == 1."""

import dataclasses
import json
import math
import os
import sys
import time
from datetime import timedelta
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from pretrain.engines.engine import StudentEngine
from pretrain.progress import Progress
from pretrain.training import trainer
from pretrain.training.metrics import read_metrics
from pretrain.training.micro_batches import to_device
from pretrain.training.trainer import DataLate, Trainer
from tests.pretrain.tiny import rows_from, spawn, student_config, train

EVERY_KIND = {"objective": [{"type": "minilm_v2", "num_relation_heads": 4}, {"type": "hidden_states"}, {"type": "mlm"}]}
NOISY = EVERY_KIND | {"dropout_prob": 0.2}  # dropout on: its randomness must be keyed, not carried along
TWO = [student_config("one"), student_config("two", num_layers=4, **EVERY_KIND)]


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, zero_stage):
    students = [student_config("one", **NOISY)]
    whole = train(tmp_path / "whole", 8, students, micro_rows=4, zero_stage=zero_stage)
    train(tmp_path / "parts", 4, students, micro_rows=4, zero_stage=zero_stage)
    parts = train(tmp_path / "parts", 8, students, micro_rows=4, zero_stage=zero_stage)
    assert_same(whole["one"], parts["one"])
    timeless = [[{k: v for k, v in line.items() if "second" not in k} for line in read_metrics(run)]
                for run in (tmp_path / "whole", tmp_path / "parts")]  # fmt: skip
    assert timeless[0] == timeless[1]
    assert [line["step"] for line in timeless[0]] == [2, 4, 6, 8]


def test_a_run_asked_to_stop_saves_one_step_later_and_goes_on_to_the_same_bits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "_LONG_STEP_SECONDS", math.inf)
    students, run = [student_config("one", **NOISY)], tmp_path / "parts"
    stopped_at = []
    for stop_at in (0, 4, 9):
        asked = iter([0] * stop_at + [15] * 9)
        parts = train(run, 8, students, save_every_steps=8, stop_requested=lambda asked=asked: next(asked))
        stopped_at += [path.name for path in (run / "checkpoints").glob("step_*")]
    # Asked before the first step: nothing was to save. Asked at the third (the first asks twice): agreed at the fourth.
    assert stopped_at == ["step_4", "step_4", "step_8"]
    messages = [line for line in capsys.readouterr().err.splitlines() if "resuming" in line]
    assert messages == [f"[rank 0] resuming from {run / 'checkpoints/step_4'}"]
    assert_same(train(tmp_path / "whole", 8, students)["one"], parts["one"])


def slow_rows(slow_row: int, seconds: float):
    """Batches, of which the one that begins at a row takes its time."""

    def batches(position: int, rows: int, rank: int, world_size: int):
        for batch in rows_from(position, rows, rank, world_size):
            time.sleep(seconds if position == slow_row else 0)
            position += rows * world_size
            yield batch

    return batches


def test_late_data_is_reported_and_handled_as_configured(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pretrain.tiny.rows_from", slow_rows(64, 3))  # ten busy steps take less
    message = r"step 9 took \d\.\d s, more than 10 times the usual .*; rank 0 waited \d\.\d s of it for data"
    with pytest.warns(UserWarning, match=message):
        train(tmp_path / "warned", 12, micro_rows=8)
    assert (tmp_path / "warned/checkpoints/step_12").exists()
    with pytest.warns(UserWarning, match=message):
        train(tmp_path / "stopped", 12, micro_rows=8, save_every_steps=12, on_slow_step="stop")
    assert [path.name for path in (tmp_path / "stopped/checkpoints").glob("step_*")] == ["step_10"]


def test_data_that_never_comes_stops_the_run_with_the_position(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pretrain.tiny.rows_from", slow_rows(24, 4))
    message = r"row position 24: no batch came within 1 s \(training.data_timeout_seconds\); its source hangs"
    with pytest.raises(DataLate, match=message):
        train(tmp_path, 8, micro_rows=8, data_timeout_seconds=1)


def test_a_student_trained_with_others_equals_the_student_trained_alone(tmp_path):
    one = student_config("one", **NOISY)
    two = student_config("two", num_layers=4, optimizer={"lr": 1.0})  # a wild neighbour
    beside = train(tmp_path / "beside", 4, [two, one])
    assert_same(beside["one"], train(tmp_path / "alone", 4, [one])["one"])


def test_accumulation_changes_nothing_but_rounding(tmp_path):
    once = train(tmp_path / "once", 4, micro_rows=8)["small"]
    four_times = train(tmp_path / "four", 4, micro_rows=2)["small"]
    for name in once:
        torch.testing.assert_close(once[name], four_times[name], rtol=1e-3, atol=2e-5)


def test_the_loss_falls_and_every_logged_value_is_there(tmp_path):
    train(tmp_path, 40, [student_config(optimizer={"lr": 5e-3})], schedule_steps=40, save_every_steps=40)
    lines = read_metrics(tmp_path)
    assert lines[-1]["small/loss"] < 0.8 * lines[0]["small/loss"]
    assert lines[-1]["tokens"] == sum(12 - row % 3 for row in range(320)) and lines[-1]["rows"] == 320
    expected = {"loss", "grad_norm", "learning_rate", "relation/query", "relation/key", "relation/value", "hidden/0"}
    assert expected <= {name.removeprefix("small/") for name in lines[-1]}
    assert lines[0]["small/learning_rate"] == pytest.approx(5e-3 * 2 / 8)
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    broken = [student_config(optimizer={"lr": 1e38})]
    stopped = r"step 6: small: 5 steps in a row had a loss .* not finite; stopping, the last checkpoint is kept"
    not_saved = "step 4: the loss of small is not finite; not saved"
    with pytest.warns(UserWarning, match=not_saved), pytest.raises(ValueError, match=stopped):
        train(tmp_path, 8, broken, save_every_steps=4, max_skipped_in_a_row=5)
    assert not list((tmp_path / "checkpoints").glob("step_*"))


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, monkeypatch, zero_stage):
    """As if it had not been, but for the rows and the schedule: the weights after it are those before."""
    weights, original = [], StudentEngine.train_micro_batch

    def poisoned(engine, batch, teacher, seed):
        if engine.steps == 2:
            teacher = dataclasses.replace(teacher, query={layer: q * math.nan for layer, q in teacher.query.items()})
        original(engine, batch, teacher, seed)
        weights.append(engine.student.encoder.model.get_input_embeddings().weight.detach().clone())

    monkeypatch.setattr(StudentEngine, "train_micro_batch", poisoned)
    warning = "step 4: small: 1 of the last 2 steps had a loss or gradient that is not finite and changed nothing"
    with pytest.warns(UserWarning, match=warning):
        train(tmp_path, 6, micro_rows=8, zero_stage=zero_stage)
    same = [torch.equal(before, after) for before, after in pairwise(weights)]
    assert same == [False, True, False, False, False] and all(one.isfinite().all() for one in weights)
    lines = read_metrics(tmp_path)
    assert [line["small/skipped_steps"] for line in lines] == [0, 1, 0]
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_a_step_with_one_bad_micro_batch_does_not_lower_the_mean_norm(tmp_path, monkeypatch):
    norms, add, original = [], StudentEngine._add, StudentEngine.train_micro_batch

    def poisoned(engine, batch, teacher, seed):
        if engine.engine.micro_steps == 4:  # the first of two of the third step
            teacher = dataclasses.replace(teacher, query={layer: q * math.nan for layer, q in teacher.query.items()})
        original(engine, batch, teacher, seed)

    def watched(engine, name, value, is_good):
        if name == "grad_norm" and is_good:
            norms.append(float(value))
        add(engine, name, value, is_good)

    monkeypatch.setattr(StudentEngine, "train_micro_batch", poisoned)
    monkeypatch.setattr(StudentEngine, "_add", watched)
    with pytest.warns(UserWarning, match="step 4: small: 1 of the last 2 steps had a loss or gradient that is not"):
        train(tmp_path, 6, micro_rows=4)
    logged = [line["small/grad_norm"] for line in read_metrics(tmp_path)]
    assert len(norms) == 5 and logged == pytest.approx([(norms[0] + norms[1]) / 2, norms[2], (norms[3] + norms[4]) / 2])


def test_the_weights_of_losses_know_how_far_the_run_is_after_a_resume_too(tmp_path, monkeypatch):
    seen, original = [], StudentEngine.train_micro_batch

    def watched(engine, *arguments):
        original(engine, *arguments)
        seen.append(engine.student.progress)

    monkeypatch.setattr(StudentEngine, "train_micro_batch", watched)
    for steps in (4, 8):
        train(tmp_path, steps, micro_rows=4)  # two micro-batches a step
    assert seen == [step / 8 for step in range(8) for _ in range(2)]


def test_the_host_runs_one_step_ahead_of_a_device_and_no_further(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "Event", lambda: events.append(Mock()) or events[-1])
    trainer = SimpleNamespace(_device_step=None)
    for _ in range(3):
        Trainer._follow_device(trainer)
    assert [event.record.call_count for event in events] == [1, 1, 1]
    assert [event.synchronize.call_count for event in events] == [1, 1, 0]


def test_every_rank_student_step_and_micro_batch_drops_others(monkeypatch):
    trainers = [SimpleNamespace(config=SimpleNamespace(seed=seed)) for seed in (1, 2)]
    seeds = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        each = product(trainers, ("one", "two"), range(4), range(2))
        seeds += [Trainer._dropout_seed(*arguments) for arguments in each]
    assert len(set(seeds)) == len(seeds) == 96


def poison_gradients(monkeypatch, steps):
    """Make gradients of these steps infinite, under a loss that is not."""
    original = StudentEngine.train_micro_batch

    def poisoned(engine, batch, teacher, seed):
        bias = engine.student.encoder.model.embeddings.LayerNorm.bias
        hook = bias.register_hook(lambda grad: grad * math.inf) if engine.steps + 1 in steps else None
        original(engine, batch, teacher, seed)
        if hook:
            hook.remove()

    monkeypatch.setattr(StudentEngine, "train_micro_batch", poisoned)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_gradients_that_are_not_finite_under_a_finite_loss_are_counted_too(tmp_path, monkeypatch, zero_stage):
    poison_gradients(monkeypatch, range(3, 9))
    stopped = "step 6: small: 4 steps in a row had a loss or gradient that is not finite; stopping"
    with pytest.warns(UserWarning, match="changed nothing"), pytest.raises(ValueError, match=stopped):
        train(tmp_path, 8, micro_rows=8, zero_stage=zero_stage, save_every_steps=8, max_skipped_in_a_row=4)
    lines = read_metrics(tmp_path)
    assert [line["small/skipped_steps"] for line in lines] == [0, 2]


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_the_schedule_counts_steps_that_are_not_finite_too(tmp_path, monkeypatch, zero_stage):
    train(tmp_path / "good", 6)
    poison_gradients(monkeypatch, [2, 3])
    with pytest.warns(UserWarning, match="changed nothing"):
        train(tmp_path / "run", 6, micro_rows=8, zero_stage=zero_stage)
    rates = [[line["small/learning_rate"] for line in read_metrics(tmp_path / run)] for run in ("good", "run")]
    assert rates[0] == rates[1] and len(set(rates[0])) == 3


def test_a_last_step_that_is_not_finite_completes_the_run_with_the_student_before_it(tmp_path, monkeypatch):
    before = train(tmp_path / "before", 3, micro_rows=8)
    poison_gradients(monkeypatch, [4])
    with pytest.warns(UserWarning, match="step 4: small: 1 of the last 2 steps .* changed nothing"):
        train(tmp_path / "run", 4, micro_rows=8)
    assert_same(before["small"], train(tmp_path / "run", 4, micro_rows=8)["small"])  # as it was saved


def test_a_run_of_long_steps_stops_in_the_one_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_LONG_STEP_SECONDS", -1)
    for number_of_looks, step in ((1, 1), (5, 3)):
        asked = iter([0] * number_of_looks + [15] * 2)
        train(tmp_path / str(step), 8, save_every_steps=8, stop_requested=lambda asked=asked: next(asked))
        assert [path.name for path in (tmp_path / str(step) / "checkpoints").glob("step_*")] == [f"step_{step}"]


def test_the_answer_to_a_stop_names_the_phase_and_the_seconds(monkeypatch):
    monkeypatch.setattr(Trainer, "__init__", lambda self: None)
    running = Trainer()
    running._step_seconds = running._save_seconds = running._step_started = 0.0
    with Progress("the first step"):
        assert running.outlook() == "after the first step, then saving"
    assert running.outlook() == "after this step, then saving"
    running._step_seconds, running._save_seconds, running._step_started = 5.0, 3.0, time.perf_counter() - 2
    assert running.outlook() == "after this step, then saving; about 6 s"
    running._step_started -= 60  # it takes longer than the one before
    assert running.outlook() == "after this step, then saving; about 3 s"


def test_a_row_of_steps_that_are_not_finite_goes_on_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_LONG_STEP_SECONDS", math.inf)
    poison_gradients(monkeypatch, range(3, 9))
    asked = iter([0] * 4 + [15] * 9)
    settings = {"micro_rows": 8, "save_every_steps": 8, "max_skipped_in_a_row": 5}
    with pytest.warns(UserWarning, match="changed nothing"):
        train(tmp_path, 8, stop_requested=lambda: next(asked), **settings)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_4"]
    with pytest.warns(UserWarning, match="changed nothing"), pytest.raises(ValueError, match="step 8: small: 6 steps"):
        train(tmp_path, 8, **settings)


def run_rank(rank: int, folder: Path, world_size: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    torch.set_num_threads(1)
    sys.stderr = (folder / f"stderr_{rank}").open("w")
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world_size, timeout=timedelta(minutes=2)
    )
    weights = train(folder / "two", 4, TWO, micro_rows=4, rank=rank, world_size=world_size)
    torch.save(weights, folder / f"weights_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.job
def test_two_ranks_of_four_rows_equal_one_rank_of_eight(tmp_path):
    spawn(run_rank, (tmp_path, 2))
    first, second = (torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True) for rank in range(2))
    alone = train(tmp_path / "one", 4, TWO, micro_rows=8)
    for name in alone:
        assert_same(first[name], second[name])
        for key in alone[name]:
            torch.testing.assert_close(first[name][key], alone[name][key], rtol=1e-3, atol=2e-5)
    ours, theirs = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert ours[-1]["one/loss"] == pytest.approx(theirs[-1]["one/loss"], rel=1e-4)


@pytest.mark.job
def test_a_run_of_two_ranks_goes_on_with_one(tmp_path):
    spawn(run_rank, (tmp_path, 2))
    moved = train(tmp_path / "two", 8, TWO, micro_rows=4)
    alone = train(tmp_path / "one", 8, TWO, micro_rows=8)
    torch.testing.assert_close(moved["one"], alone["one"], rtol=1e-3, atol=5e-5)
    state = json.loads((tmp_path / "two/checkpoints/step_8/state.json").read_text())
    assert state["rows"] == 64


def test_every_tensor_of_a_batch_can_be_pinned(monkeypatch):
    """As PyTorch pins: memory of the same strides, then a copy, which several places in one cannot take."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda one: torch.empty_strided(one.shape, one.stride()).copy_(one))
    ids = torch.arange(12).view(3, 4)
    types = torch.zeros(1, dtype=torch.int64).expand(6, 4).split(3)[1]  # as corpus/rows/stream.py gives them
    moved = to_device({"input_ids": ids, "token_type_ids": types}, torch.device("meta"))
    assert {name: (one.shape, one.device.type) for name, one in moved.items()} == {
        "input_ids": ((3, 4), "meta"),
        "token_type_ids": ((3, 4), "meta"),
    }
