"""The arithmetic agrees with itself and with what is counted elsewhere."""

import math
import sys
from pathlib import Path

import pytest
import torch

from bench import gd_step, scale
from launch.planning import cluster

HARDWARE = scale.Hardware()


@pytest.mark.parametrize("row_tokens", [128, 512])
def test_operations_are_those_of_the_measured_step(row_tokens):
    student, teacher = scale.STUDENTS[0], scale.TEACHERS[0]
    operations = teacher.operations(row_tokens) + 3 * student.operations(row_tokens)
    operations += 6 * row_tokens * (teacher.width + 3 * student.width)
    assert gd_step.needed_operations([student.name], 8, row_tokens) == operations * 8 * row_tokens


def test_parameters_are_those_of_the_model():
    from bench.gd_ways import student_model

    student = scale.STUDENTS[0]
    assert sum(one.numel() for one in student_model(student.name).parameters()) == student.cost(21_128).parameters
    assert student.trained_parameters(21_128) < student.cost(21_128).parameters


def test_a_step_has_the_batch_that_was_asked_for():
    for gpus in (8, 64, 1024):
        step = scale.plan_step(HARDWARE, gpus, scale.TEACHERS[1], scale.STUDENTS, 512, 4096 * 512)
        assert step.tokens == gpus * step.micro_rows * step.accumulation * 512 == 4096 * 512
        assert step.micro_rows * 512 <= scale.MICRO_TOKENS


def test_more_of_the_network_takes_longer_and_never_without_bound():
    seconds = [HARDWARE.all_reduce_seconds(4e7, gpus) for gpus in (1, 8, 64, 1024, 4096)]
    assert seconds[0] == 0 and seconds == sorted(seconds) and seconds[-1] < 2 * seconds[2]
    assert scale.Hardware(gbit=800).all_reduce_seconds(4e7, 64) < seconds[2]


def test_saving_costs_as_much_as_it_saves_at_the_optimum():
    every, failures = scale.save_interval_seconds(HARDWARE, 1024, 2.0), HARDWARE.gpu_mtbf_hours * 3600 / 1024
    assert math.isclose(2.0 / every, every / 2 / failures)


def test_the_document_holds_what_is_printed():
    document = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8").splitlines()
    gpus, steps = (8, 64, 1024), list(scale.describe_steps(HARDWARE, (8, 64, 1024), 4096 * 512))
    shown = [*scale.describe_students(HARDWARE, gpus), *scale.describe_saving(HARDWARE, gpus, 4096 * 512)]
    shown += [
        *scale.describe_start(HARDWARE, gpus),
        *(line for line in steps if "| 512 |" in line and "6l3" not in line),
    ]
    assert [line for line in shown if line not in document] == []


def test_all_tables_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale.py", "--gpus", "8", "--tflops", "100", "--gbit", "200"])
    scale.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and "|" not in line] == ["Students", "Steps", "Saving", "Start"]
    assert sum(line.startswith("| 8 |") for line in lines) == 12 + 1


@pytest.mark.parametrize(("student", "num_layers"), [("4l312d", 4), ("6l384d", 6)])
def test_kernels_are_those_of_a_step(monkeypatch, student, num_layers):
    """Operations that are more than a view, of the trainer's own models with the attention of a GPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from bench import gd_ways
    from pretrain.models import encoder, teacher

    monkeypatch.setattr(encoder, "FASTEST_ATTENTION", "fused")
    monkeypatch.setattr(teacher, "can_pack", lambda model: False)
    monkeypatch.setattr(gd_ways, "VOCAB", 200)
    for key, value in {"num_hidden_layers": 5, "hidden_size": 192, "num_attention_heads": 3}.items():
        monkeypatch.setitem(gd_ways.TEACHER, key, value)
    views = ("view", "transpose", "t", "permute", "expand", "slice", "select", "squeeze", "detach", "alias", "strided",
             "unbind", "split", "empty", "unflatten", "lift_fresh", "_local_scalar_dense")  # fmt: skip

    class Count(TorchDispatchMode):
        kernels = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            name = function.overloadpacket.__name__
            self.kernels += not any(view == name or (view in name and len(view) > 1) for view in views)
            return function(*arguments, **(options or {}))

    model, [engine] = gd_ways.build_models([student], "minilm_v2", 2, "portable", "bfloat16")
    ids = torch.arange(32).view(2, 16)
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    engine.train_micro_batch(batch, model(batch), 0)
    with Count() as of_teacher:
        features = model(batch)
    with Count() as of_student:
        engine.train_micro_batch(batch, features, 0)
    assert of_teacher.kernels == pytest.approx(cluster.teacher_kernels(5), rel=0.05)
    assert of_student.kernels == pytest.approx(cluster.student_kernels(num_layers), rel=0.1)


def test_the_longer_of_device_and_host_counts():
    step = scale.Step(1, 1, teacher=2.0, students=1.0, host=4.0, all_reduce=0.5, tokens=1)
    assert step.seconds == 4.5
    assert scale.Step(1, 1, teacher=2.0, students=3.0, host=4.0, all_reduce=0.5, tokens=1).seconds == 5.5
