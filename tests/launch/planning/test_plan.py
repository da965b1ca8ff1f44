"""`gd.py --plan`: a table that says what each figure rests on, made without a process group and a run folder."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
import torch.distributed as dist

from launch import gd
from launch.distillation.config import read_run_config
from launch.job.world import World
from launch.planning import plan as plan_module
from launch.planning.flags import add_plan_flags, plan_values
from launch.planning.measurement import StepTime
from launch.planning.plan import PlanOptions, describe_plan
from tests.launch.conftest import launch

RATE = {"tflops": 100.0}


def table(text: str) -> dict[str, list[str]]:
    """Value and basis of each line by what it is of; columns stand two spaces apart."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {what: rest for what, *rest in cells}


def test_the_table_of_a_tiny_run(config_file, law_file, tmp_path):
    config = read_run_config(config_file)
    lines = table(describe_plan(config, PlanOptions(gpus=(1, 2), price=2.5, law=law_file, **RATE)))
    assert lines["small"][0].startswith("2 x 12, feed-forward 20: ") and lines["small"][1] == "computed"
    assert lines["teacher"] == [f"{config.teacher.path}, 4 x 24", "read up to layer 4 of 4"]
    assert lines["tokens"] == ["6 steps of 8 rows of 16: 768", "configured"]
    assert lines["epochs"][1].startswith("computed: the corpus has ") and float(lines["epochs"][0]) > 0
    assert lines["operations"][1] == "computed"
    assert lines["time, 1 rank"][1].startswith("assumed: 100 TFLOP/s in large products")
    assert "sums over 400 Gbit/s a rank assumed" in lines["time, 2 ranks"][1]
    assert lines["memory, 2 ranks"][1] == "computed, roughly: 4 rows at once; libraries come on top"
    assert lines["price, 2 ranks"][1].endswith("rank-hours at 2.5")
    loss, basis = lines["small: held-out loss"]
    assert (
        "±" in loss
        and basis == "fitted on 16 students, tiny.json; 4 relation heads; differs from these runs in the corpus"
    )
    assert lines["small: kept score"][0].endswith("% of the teacher's")
    assert lines["small: kept score"][1] == "fitted: tnews by neighbours, where the teacher has 50.0%"
    assert lines["other: held-out loss"] == lines["small: held-out loss"], "of one size"


def test_more_steps_cost_and_promise_more(config_file, law_file):
    config = read_run_config(config_file)
    longer = config.model_copy(update={"training": config.training.model_copy(update={"total_steps": 60})})
    options = PlanOptions(price=1e6, law=law_file, **RATE)
    few, many = (table(describe_plan(one, options)) for one in (config, longer))
    assert float(many["price, 1 rank"][0]) == pytest.approx(10 * float(few["price, 1 rank"][0]), rel=0.05)
    assert float(many["small: held-out loss"][0].split()[0]) < float(few["small: held-out loss"][0].split()[0])
    assert "extrapolated" in many["small: held-out loss"][1]


def test_a_measured_step_is_of_this_machine(config_file, monkeypatch):
    monkeypatch.setattr(plan_module, "time_step", lambda *_: StepTime(4, 0.5, (1.0, 0.5), 4.0))
    lines = table(describe_plan(read_run_config(config_file), PlanOptions(gpus=(1, 2))))
    assert lines["time, 1 rank"][0] == "2.0 minutes", "6 steps of 8 rows of 2 seconds, and 4 for AdamW"
    assert lines["time, 1 rank"][1].startswith("measured: 4 rows on CPU, ")
    assert lines["time, 2 ranks"][0] == "72 seconds"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [(["training.total_steps=60000"], "7,680,000 tokens; fitted on 200 to 3,200, trusted to 4 times beyond"),
     (["corpus.row_tokens=24"], "corpus.row_tokens is 24, was 16"),
     (['students.0.objective=[{"type":"hidden_states"}]'], "student.objective is [")],
)  # fmt: skip
def test_a_law_is_not_asked_beyond_its_runs(config_file, law_file, overrides, reason):
    config = read_run_config(config_file, overrides)
    lines = table(describe_plan(config, PlanOptions(law=law_file, **RATE)))
    assert lines["small: held-out loss"][0] == "no prediction"
    assert lines["small: held-out loss"][1].startswith(f"tiny.json: {reason}") and "small: kept score" not in lines


def with_teacher(law, path, **changes):
    """A law's file again, for another teacher."""
    path.write_text(law.model_copy(update={"setting": law.setting.model_copy(update=changes)}).model_dump_json())
    return PlanOptions(law=path, **RATE)


def test_another_teacher_is_told_by_its_sizes(config_file, law, tmp_path):
    larger = law.setting.teacher_sizes.model_copy(update={"num_layers": 6})
    options = with_teacher(law, tmp_path / "other.json", teacher_sizes=larger)
    reason = table(describe_plan(read_run_config(config_file), options))["small: held-out loss"][1]
    assert reason.startswith("other.json: another teacher (bert 4 x 24, ") and "the law's is bert 6 x 24, " in reason


def test_another_teacher_is_told_by_its_weights(config_file, law, tmp_path):
    options = with_teacher(law, tmp_path / "other.json", teacher_fingerprint="0")
    reason = table(describe_plan(read_run_config(config_file), options))["small: held-out loss"][1]
    assert reason == "other.json: another teacher: its sizes are those of the law's, its weights are not"


def test_a_score_that_no_law_tells_is_said(config_file, law, tmp_path):
    other = law.model_copy(update={"curve": law.curve.model_copy(update={"kept": None}), "kept_error": None})
    (tmp_path / "loss.json").write_text(other.model_dump_json())
    options = PlanOptions(law=tmp_path / "loss.json", **RATE)
    lines = table(describe_plan(read_run_config(config_file), options))
    told = ["no prediction", "the score on tnews did not follow the loss in the law's runs"]
    assert lines["small: kept score"] == told


def test_the_corpus_may_be_built_later(config_file, tmp_path):
    config = read_run_config(config_file, [f"corpus.manifest={tmp_path}/none"])
    lines = table(describe_plan(config, PlanOptions(**RATE)))
    assert lines["epochs"][0] == "not known" and str(tmp_path) in lines["epochs"][1]


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_rows_that_must_be_counted_are_not_guessed(config_file, kind):
    lines = table(describe_plan(read_run_config(config_file, [f"corpus.rows={kind}"]), PlanOptions(**RATE)))
    assert lines["epochs"] == ["not known", f"rows of {kind} are counted when the run starts"]
    assert lines["tokens"][1] == "configured, padding included"


def test_ranks_that_cannot_share_a_batch_are_refused(config_file):
    message = "--gpus: deepspeed.train_batch_size: must be a multiple of 3 ranks, got 8"
    with pytest.raises(ValueError, match=message):
        describe_plan(read_run_config(config_file), PlanOptions(gpus=(3,), **RATE))


def test_no_process_group_no_run_folder(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("a process group"))
    parser = ArgumentParser()
    add_plan_flags(parser)
    arguments = parser.parse_args(["--plan", "--tflops", "100", "--gpus", "1", "8"])
    arguments = Namespace(**vars(arguments), config=config_file, overrides=[])
    for rank in (0, 1):
        assert gd.prepare(arguments, tmp_path / "run", World(rank=rank, size=2))(None, None) == 0
    out = capsys.readouterr().out
    assert out.count("time, 8 ranks") == 1, "rank 0 speaks alone"
    assert not (tmp_path / "run").exists()


def test_the_command_prints_the_plan_and_leaves(config_file, tmp_path):
    done = launch("--config", str(config_file), "--run", str(tmp_path / "run"), "--plan")
    assert done.returncode == 0, done.stderr
    assert "measured: 4 rows on CPU" in done.stdout and "no prediction" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--gpus", "8"], "--gpus: belongs to --plan, which is not given"),
     (["--tflops", "100", "--law", "x.json"], "--tflops, --law: belongs to --plan, which is not given")],
)  # fmt: skip
def test_flags_of_a_plan_without_it_are_refused(flags, message):
    parser = ArgumentParser()
    add_plan_flags(parser)
    with pytest.raises(ValueError, match=message):
        plan_values(parser.parse_args(flags))


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--gpus", "0"], "argument --gpus: must be greater than 0, got 0"),
     (["--price", "-1"], "argument --price: must be greater than 0, got -1"),
     (["--tflops", "fast"], "argument --tflops: invalid float value: 'fast'")],
)  # fmt: skip
def test_numbers_of_a_plan_must_be_numbers(flags, message, capsys):
    parser = ArgumentParser()
    add_plan_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--plan", *flags])
    assert message in capsys.readouterr().err


def test_every_recorded_law_is_read():
    laws = sorted((Path(__file__).parents[3] / "configs/laws").glob("*.json"))
    for path in laws:
        values = json.loads(path.read_text())
        assert values["about"] and len(values["without"]) == values["num_points"] >= 8
