"""Results of an evaluation from its cells: the chosen rate, means, spreads, ratios; nothing is trained."""

import json
from dataclasses import asdict, replace

import pytest

from launch.evaluation.cells import Cell, choose_learning_rate, next_cell, num_cells, num_made
from launch.evaluation.config import Evaluation, EvaluationConfig
from launch.evaluation.plot import label_heights
from launch.evaluation.table import cut_texts, write_results
from pretrain.device import cpu_name
from pretrain.engines.deepspeed_config import AutocastConfig
from tasks.config import TaskConfig
from tasks.fine_tuning import FineTuned
from tasks.readers import read_task

COSTS = {
    "large": {"num_parameters": 3e7, "num_non_embedding": 2e7, "milliseconds_per_text": 20.0, "texts_per_second": 50.0},
    "small": {"num_parameters": 1e7, "num_non_embedding": 5e6, "milliseconds_per_text": 5.0, "texts_per_second": 400.0},
}


@pytest.fixture
def evaluation():
    deepspeed = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 32}
    fine_tuning = {"learning_rates": [3e-4, 1e-4], "num_choosing_seeds": 1}
    config = {"fine_tuning": fine_tuning, "training": {"seed": 7}, "deepspeed": deepspeed}
    tasks = {name: TaskConfig(name=name, kind="sentence", train="", dev="") for name in ("one", "two")}
    models = {"large": "a", "small": "b"}
    return Evaluation(EvaluationConfig.model_validate(config, strict=False), models, tasks, (7, 8, 9))


def with_fine_tuning(evaluation, **keys):
    fine_tuning = evaluation.config.fine_tuning.model_copy(update=keys)
    return replace(evaluation, config=evaluation.config.model_copy(update={"fine_tuning": fine_tuning}))


def write(output, cell, held_out, dev):
    folder = cell.folder(output)
    folder.mkdir(parents=True)
    scores = FineTuned({"accuracy": held_out}, {"accuracy": dev}, 10, 1.0)
    (folder / "scores.json").write_text(json.dumps(asdict(scores)))


def write_all(output, evaluation):
    """1e-4 is better on the held-out examples, 3e-4 on the development examples."""
    for model, lift in (("large", 0.2), ("small", 0.0)):
        for task, base in (("one", 0.4), ("two", 0.6)):
            write(output, Cell(model, task, 1e-4, 7), 0.5, base + lift)
            write(output, Cell(model, task, 3e-4, 7), 0.4, 0.9)
            for seed, more in ((8, 0.01), (9, 0.02)):
                write(output, Cell(model, task, 1e-4, seed), 0.1, base + lift + more)


def test_the_rate_is_chosen_on_held_out_examples_once_all_are_made(evaluation, tmp_path):
    write(tmp_path, Cell("small", "one", 3e-4, 7), 0.4, 0.9)
    assert choose_learning_rate(evaluation, "small", "one", tmp_path) is None
    assert next_cell(evaluation, "small", "one", tmp_path) == Cell("small", "one", 1e-4, 7)
    write(tmp_path, Cell("small", "one", 1e-4, 7), 0.5, 0.1)
    assert choose_learning_rate(evaluation, "small", "one", tmp_path) == 1e-4
    assert next_cell(evaluation, "small", "one", tmp_path) == Cell("small", "one", 1e-4, 8)


def test_a_rate_that_fails_with_the_second_seed_is_not_chosen_by_two(evaluation, tmp_path):
    both = with_fine_tuning(evaluation, num_choosing_seeds=2)
    for rate, scores in ((3e-4, (0.6, 0.0)), (1e-4, (0.5, 0.5))):
        write(tmp_path, Cell("small", "one", rate, 7), scores[0], 0.5)
        assert choose_learning_rate(both, "small", "one", tmp_path) is None
        assert next_cell(both, "small", "one", tmp_path).seed == (7 if rate == 3e-4 else 8)
        write(tmp_path, Cell("small", "one", rate, 8), scores[1], 0.5)
    assert choose_learning_rate(evaluation, "small", "one", tmp_path) == 3e-4
    assert choose_learning_rate(both, "small", "one", tmp_path) == 1e-4
    assert next_cell(both, "small", "one", tmp_path) == Cell("small", "one", 1e-4, 9)
    assert num_cells(both) == 2 * 2 * (2 * 2 + 1)
    assert num_cells(replace(both, seeds=(7,))) == 2 * 2 * 2, "no more than there are"


def test_of_equal_rates_the_smallest_is_chosen(evaluation, tmp_path):
    for rate in (3e-4, 1e-4):
        write(tmp_path, Cell("small", "one", rate, 7), 0.5, rate)
    assert choose_learning_rate(evaluation, "small", "one", tmp_path) == 1e-4


def test_without_held_out_examples_the_development_examples_choose(evaluation, tmp_path):
    for rate in (3e-4, 1e-4):
        write(tmp_path, Cell("small", "one", rate, 7), 0.5, rate)
        path = Cell("small", "one", rate, 7).folder(tmp_path) / "scores.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"held_out": {}}))
    assert choose_learning_rate(evaluation, "small", "one", tmp_path) == 3e-4


def test_made_cells_are_counted_up_to_all(evaluation, tmp_path):
    assert num_cells(evaluation) == 2 * 2 * (2 + 2) and num_made(evaluation, tmp_path) == 0
    write_all(tmp_path, evaluation)
    assert num_made(evaluation, tmp_path) == num_cells(evaluation)
    assert all(next_cell(evaluation, model, task, tmp_path) is None for model in COSTS for task in ("one", "two"))


def test_means_spreads_and_ratios(evaluation, tmp_path):
    write_all(tmp_path, evaluation)
    table = write_results(evaluation, tmp_path, COSTS, {"one": 0.35, "two": None})
    large, small = json.loads((tmp_path / "results.json").read_text())["models"]
    assert small["tasks"]["one"]["scores"] == pytest.approx([0.4, 0.41, 0.42])
    assert small["tasks"]["one"]["mean"] == pytest.approx(0.41) and small["tasks"]["one"]["std"] == pytest.approx(0.01)
    assert small["average"]["mean"] == pytest.approx(0.51) and small["average"]["std"] == pytest.approx(0.01)
    assert small["kept"] == pytest.approx((0.51 - 0.175) / (0.71 - 0.175)) and large["kept"] == 1
    assert small["times_as_fast"] == 4 and small["throughput_ratio"] == 8
    assert (
        "| small | 10.0M (5.0M) | 5.0 (4.0 x) | 400 (8.0 x) | 41.0 ± 1.0 | 61.0 ± 1.0 | 51.0 ± 1.0 | 62.6 % |" in table
    )
    assert "| always the commonest label |  |  |  | 35.0 |  |  |  |" in table
    assert "| always the commonest" not in write_results(evaluation, tmp_path, COSTS, {"one": None, "two": None})
    table = write_results(evaluation, tmp_path, COSTS, {"one": 0.35, "two": None})
    assert table == (tmp_path / "results.md").read_text()
    assert "an end of it: large the lowest on one, two; small the lowest on one, two." in table
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("commonest", [0.71, 0.705, 0.9])
def test_nothing_is_kept_of_a_reference_that_is_not_above_the_commonest_label(evaluation, tmp_path, commonest):
    write_all(tmp_path, evaluation)
    table = write_results(evaluation, tmp_path, COSTS, {"one": commonest, "two": commonest})
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    assert [one["kept"] for one in models] == [None, None]
    assert "| 51.0 ± 1.0 |  |" in table and "Nothing is kept of large: its average is not above always giving" in table


def test_the_table_names_the_precision_and_the_machine(evaluation, tmp_path):
    write_all(tmp_path, evaluation)
    lower = evaluation.config.deepspeed.model_copy(update={"torch_autocast": AutocastConfig.of("bfloat16")})
    precise = replace(evaluation, config=evaluation.config.model_copy(update={"deepspeed": lower}))
    table = write_results(precise, tmp_path, COSTS, {"one": None, "two": None}, machine="NVIDIA H200")
    assert "Fine-tuned in bfloat16 on NVIDIA H200. Speed: " in table and f"one thread of {cpu_name()}, one at" in table
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["precision"], results["machine"]) == ("bfloat16", "NVIDIA H200")


def test_labels_of_like_latency_do_not_lie_on_each_other():
    places = [(20.0, 50.0), (7.0, 49.6), (7.1, 49.7), (7.2, 48.0)]
    assert label_heights(places, 1.0) == pytest.approx([50.0, 48.7, 49.7, 47.7])
    assert label_heights(places, 0.0) == [50.0, 49.6, 49.7, 48.0]


def test_a_missing_or_damaged_cell_is_named(evaluation, tmp_path):
    write_all(tmp_path, evaluation)
    path = Cell("small", "two", 1e-4, 9).folder(tmp_path) / "scores.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"lr0.0001_seed9/scores.json: not written by an evaluation; remove it"):
        write_results(evaluation, tmp_path, COSTS, {"one": None, "two": None})
    path.unlink()
    with pytest.raises(ValueError, match="small on two: not all cells are made; another job may be at it"):
        write_results(evaluation, tmp_path, COSTS, {"one": None, "two": None})


@pytest.mark.parametrize(
    ("fine_tuning", "without", "said"),
    [
        ({}, (), "chosen for each model and task with the first seed, on training examples held out."),
        ({"num_choosing_seeds": 5, "learning_rates": (1e-4, 1e-4)}, (), "with the first 3 seeds, on training"),
        (
            {"learning_rates": (1e-4, 1e-4)},
            ("one", "two"),
            "with the first seed, on the development examples themselves.",
        ),
        ({"learning_rates": (1e-4, 1e-4)}, ("two",), "held out (for two, of too few texts, the development examples"),
        ({"learning_rates": (1e-4,)}, (), "batches of 32, learning rate 0.0001. Fine-tuned in"),
        (
            {"learning_rates": (1e-4,), "head_lr_ratio": 10.0},
            (),
            "learning rate 0.0001, head and pooler at 10 times it. Fine-tuned in",
        ),
        ({}, (), "epochs, a further 1,000 (a tenth of all at most) held out, batches of 32"),
        ({"num_held_out": 0}, (), "epochs, batches of 32"),
    ],
)
def test_the_table_says_how_the_rate_was_chosen(evaluation, tmp_path, fine_tuning, without, said):
    write_all(tmp_path, evaluation)
    for task in without:
        for path in tmp_path.glob(f"cells/*/{task}/*/scores.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"held_out": {}}))
    assert said in write_results(
        with_fine_tuning(evaluation, **fine_tuning), tmp_path, COSTS, {"one": None, "two": None}
    )


def test_what_is_cut_of_the_texts_to_score_is_said_in_the_table(evaluation, tmp_path, teacher_folder):
    for name, texts in (("train", ("天", "地")), ("dev", ("天 " * 30, "地", "地 " * 40))):
        records = [{"sentence": text, "label": label} for text, label in zip(texts, "aba", strict=False)]
        (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in records))
    files = {"train": str(tmp_path / "train"), "dev": str(tmp_path / "dev")}
    tasks = {
        name: TaskConfig(name=name, kind="sentence", row_tokens=row_tokens, **files)
        for name, row_tokens in (("one", 16), ("two", 64))
    }
    evaluation = replace(evaluation, models={"large": str(teacher_folder), "small": "b"}, tasks=tasks)
    remarks = cut_texts(evaluation, {name: read_task(task) for name, task in tasks.items()})
    assert remarks == ["one: 2 of 3 texts are cut at 16 tokens"]
    write_all(tmp_path, evaluation)
    table = write_results(evaluation, tmp_path, COSTS, {"one": None, "two": None}, remarks)
    assert "Ratios are to large." in table and table.endswith(" one: 2 of 3 texts are cut at 16 tokens.\n")
