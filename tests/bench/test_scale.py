"""The arithmetic agrees with itself and with what is counted elsewhere."""

import math
import sys
from pathlib import Path

import pytest

from bench import gd_step, scale

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
    assert sum(one.numel() for one in student_model(student.name).parameters()) == student.parameters(21_128)
    assert student.trained_parameters(21_128) < student.parameters(21_128)


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
    document = (Path(__file__).parents[2] / "docs/scale.md").read_text(encoding="utf-8").splitlines()
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
