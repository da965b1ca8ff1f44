"""A grid is the students that it stands for, written out; what does not fit is refused with its path."""

import json
import re
from pathlib import Path

import pytest

from launch.distillation.config import read_run_config
from launch.distillation.run_facts import read_facts
from pretrain.models.shape import EncoderShape
from tests.launch.conftest import launch

ROOT = Path(__file__).parents[3]
TEACHER = EncoderShape("bert", 24, 1024, 16, 4096, 21128, 512)
SHARED = {
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.98]},
    "schedule": {"warmup_ratio": 0.1},
    "objective": [{"type": "minilm_v2", "num_relation_heads": 16}],
}
GRID = {"num_layers": [2, 4], "hidden_size": [128, 256]}


def run(*students):
    return {
        "corpus": {"manifest": "none", "row_tokens": 16},
        "teacher": {"path": "none"},
        "students": list(students),
        "training": {"total_steps": 6},
        "deepspeed": {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4},
    }


def of_size(name, layers, width, heads, feed_forward):
    sizes = {"num_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return SHARED | sizes | {"name": name, "intermediate_size": feed_forward}


def problems(values, overrides=(), teacher=None):
    with pytest.raises(ValueError, match=r".") as caught:
        read_run_config(values, overrides).check(teacher)
    return str(caught.value).splitlines()


def test_a_grid_is_its_students_written_out():
    grid = run(of_size("wide", 3, 384, 12, 1536), SHARED | {"name": "s", "grid": GRID})
    written = run(
        of_size("wide", 3, 384, 12, 1536),
        *(of_size(f"s-{n}l{d}d", n, d, d // 64, 4 * d) for n in (2, 4) for d in (128, 256)),
    )
    config = read_run_config(grid)
    assert config == read_run_config(written)
    assert read_run_config(config.model_dump(mode="json")) == config  # as a run folder keeps it
    given = SHARED | {"name": "s", "grid": GRID, "num_attention_heads": 8, "intermediate_size": 100}
    assert {(one.num_attention_heads, one.intermediate_size) for one in read_run_config(run(given)).students} == {
        (8, 100)
    }
    fewer = read_run_config(grid, ["students.1.grid.num_layers=[6]", "students.1.optimizer.lr=0.1"])
    assert [(one.name, one.optimizer.lr) for one in fewer.students[1:]] == [("s-6l128d", 0.1), ("s-6l256d", 0.1)]


def test_the_twenty_four_sizes_fit_the_teacher_that_their_file_names():
    config = read_run_config(ROOT / "configs/well_read.json")
    config.check(TEACHER)
    sizes = {(one.num_layers, one.hidden_size) for one in config.students}
    assert sizes == {(n, d) for n in (2, 4, 6, 8, 10, 12) for d in (128, 256, 512, 768)} and len(config.students) == 24
    assert all(one.num_attention_heads * 64 == one.hidden_size for one in config.students)
    assert all(one.intermediate_size == 4 * one.hidden_size for one in config.students)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"grid": GRID | {"hidden_size": [128, 100]}},
         "students.1.grid.hidden_size.1: 100 is not a multiple of 64, the width of a head; take multiples of it, or "
         "give num_attention_heads"),
        ({"num_attention_heads": 6},
         "students.1.grid.hidden_size.0: 128 cannot be divided among num_attention_heads (6); leave out "),
        ({"grid": GRID | {"num_layers": [4, 2, 4]}}, "students.1.grid.num_layers: 4 is listed more than once"),
        ({"num_layers": 3}, "students.1.num_layers: is given by grid; leave out one of them"),
        ({"grid": {"num_layers": [], "hidden_size": [128]}}, "students.1.grid.num_layers: List should have at least 1"),
        ({"grid": {"num_layers": [2], "hidden_size": [0]}}, "students.1.grid.hidden_size.0: Input should be greater"),
        ({"grid": {"num_layers": [2]}}, "students.1.grid.hidden_size: required, and not given"),
        ({"grid": GRID | {"intermediate_size": [512]}}, "students.1.grid.intermediate_size: unknown key"),
        ({"grid": [2, 128]}, "students.1.grid: must be an object with num_layers and hidden_size, got [2, 128]"),
    ],
)  # fmt: skip
def test_grids_that_cannot_be_expanded_are_refused_with_their_path(keys, message):
    first = of_size("wide", 3, 384, 12, 1536)
    lines = problems(run(first, SHARED | {"name": "s", "grid": GRID} | keys))
    assert any(line.startswith(message) for line in lines), lines


def test_a_key_that_is_wrong_in_every_student_is_named_once_and_where_it_is():
    grid = SHARED | {"name": "s", "grid": GRID}
    lines = problems(run(grid, grid | {"name": "t", "optimizer": {"lr": 1e-3, "beta": 1}}))
    assert lines[1:] == ["students.1.optimizer.beta: unknown key; did you mean betas?"]
    assert problems(run({key: value for key, value in grid.items() if key != "name"}))[1:] == [
        "students.0.name: required, and not given"
    ]


def test_names_that_collide_are_refused():
    lines = problems(run(of_size("s-2l128d", 2, 128, 2, 512), SHARED | {"name": "s", "grid": GRID}))
    assert lines[1:] == ["students: names must differ, got s-2l128d more than once"]


def test_objectives_that_do_not_fit_a_size_name_the_student():
    grid = SHARED | {"name": "s", "grid": {"num_layers": [2], "hidden_size": [192, 128]}}
    lines = problems(run(grid), ["students.0.objective.0.num_relation_heads=96"], TEACHER)
    assert any(
        re.match(r"students\.1\.objective\.0\.num_relation_heads: must divide.*96.*\(student s-2l128d\)$", line)
        for line in lines
    ), lines


def test_a_run_trains_every_student_of_a_grid_and_goes_on_with_it(config_values, tmp_path):
    shared = {
        key: value for key, value in config_values["students"][0].items() if key not in ("num_layers", "hidden_size")
    }
    grid = shared | {"name": "s", "grid": {"num_layers": [1, 2], "hidden_size": [12]}, "init": {"layers": "scratch"}}
    training = config_values["training"] | {"total_steps": 1}
    (tmp_path / "grid.json").write_text(json.dumps(config_values | {"students": [grid], "training": training}))
    run, arguments = tmp_path / "run", ("--config", str(tmp_path / "grid.json"), "--run", str(tmp_path / "run"))
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert read_facts(run / "run.json").unreached_parameters.keys() == {"s-1l12d", "s-2l12d"}
    assert {path.name for path in (run / "checkpoints/step_1").iterdir() if path.is_dir()} == {"s-1l12d", "s-2l12d"}
    assert launch(*arguments).returncode == 0  # finished already: the same grid is no other configuration
