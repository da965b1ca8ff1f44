"""What an evaluation found: numbers as JSON, a Markdown table, and a plot of score against latency."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from launch.evaluation.plot import draw_scores

matplotlib.use("agg")

from transformers import AutoTokenizer, BertConfig, BertModel

from launch.evaluation.cells import Cell, choose_learning_rate, read_cell
from launch.evaluation.config import Evaluation
from launch.evaluation.suites import BASE
from pretrain.device import cpu_name
from pretrain.durable import write_durably
from pretrain.models.pretrained import load_encoder, load_pretrained
from pretrain.probes.cost import compare_cost
from pretrain.progress import Progress
from tasks.examples import text_of
from tasks.kinds.kind import TaskData
from tasks.readers import encode

_NUM_TEXTS, _MAX_TOKENS = 8, 128
_BASE_VOCABULARY = 21128  # of bert-base-chinese


def collect_scores(evaluation: Evaluation, output: Path) -> dict[str, dict[str, Any]]:
    """`{model: {"tasks": {task: {learning_rate, scores, mean, std}}, "averages"}}`, averages a seed each.

    ValueError naming a cell that is not made.
    """
    return {name: _scores_of(name, evaluation, output) for name in evaluation.models}


def _scores_of(model: str, evaluation: Evaluation, output: Path) -> dict[str, Any]:
    tasks = {}
    for name, task in evaluation.tasks.items():
        rate = choose_learning_rate(evaluation, model, name, output)
        cells = [read_cell(Cell(model, name, rate, seed), output) if rate else None for seed in evaluation.seeds]
        if any(cell is None for cell in cells):
            raise ValueError(f"{model} on {name}: not all cells are made; another job may be at it: run again later")
        scores = [cell.dev[task.scored_by] for cell in cells if cell]
        held_out = all(cell.held_out for cell in cells if cell)
        tasks[name] = {
            "learning_rate": rate, "metric": task.scored_by, "held_out": held_out, "scores": scores, **_spread(scores)
        }  # fmt: skip
    by_seed = list(zip(*(one["scores"] for one in tasks.values()), strict=True))
    averages = [statistics.fmean(scores) for scores in by_seed]
    return {"tasks": tasks, "average": {"scores": averages, **_spread(averages)}}


def write_results(
    evaluation: Evaluation,
    output: Path,
    costs: Mapping[str, Mapping[str, float]],
    commonest: Mapping[str, float | None],
    remarks: Sequence[str] = (),
    machine: str = "",
) -> str:
    """Write results.json, results.md and results.png, and return the table. Raise ValueError naming a missing cell.

    Args:
        remarks: what else a reader of the scores should know.
        machine: what the models were fine-tuned on.
    """
    results = build_results(evaluation, collect_scores(evaluation, output), costs, commonest)
    results |= {"remarks": list(remarks), "machine": machine, "processor": cpu_name()}
    table = render_table(results)
    write_durably(output / "results.json", json.dumps(results, ensure_ascii=False, indent=2))
    write_durably(output / "results.md", table)
    draw_scores(results, output / "results.png")
    return table


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, and the sample standard deviation over seeds where there are several."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def cut_texts(evaluation: Evaluation, tasks: Mapping[str, TaskData]) -> list[str]:
    """What of the development examples `row_tokens` cuts off, by the first model's tokenizer."""
    tokenizer = load_pretrained(AutoTokenizer, next(iter(evaluation.models.values())))
    encoded = (encode(data.dev, evaluation.tasks[name], data.labels, tokenizer) for name, data in tasks.items())
    return [one.cut for one in encoded if one.cut]


def count_examples(tasks: Mapping[str, TaskData]) -> str:
    """A sentence on how many examples each task has here, which may be fewer than its published scores are of."""
    counts = (f"{name} {len(data.train):,} and {len(data.dev):,}" for name, data in tasks.items())
    return f"Examples to train on and to score: {', '.join(counts)}"


@Progress("timing the models")
def measure_costs(
    models: Mapping[str, str], tasks: Sequence[TaskData], with_base: bool = False
) -> dict[str, dict[str, float]]:
    """Sizes and speeds of the encoders on the same development texts, spread over the tasks.

    `with_base` adds a BERT-base of random weights, with the first model's tokenizer: weights do not change the time.
    """
    texts = ["".join(text_of(task.dev[index % len(task.dev)])) for index in range(_NUM_TEXTS) for task in tasks]
    loaded = {}
    for name, path in models.items():
        loaded[name] = load_encoder(path).eval(), load_pretrained(AutoTokenizer, path)
    if with_base:
        tokenizer = next(iter(loaded.values()))[1]
        vocab_size = max(_BASE_VOCABULARY, len(tokenizer))
        loaded[BASE] = BertModel(BertConfig(vocab_size=vocab_size), add_pooling_layer=False).eval(), tokenizer
    return compare_cost(loaded, texts, max_tokens=_MAX_TOKENS, num_rounds=_NUM_TEXTS)


def build_results(
    evaluation: Evaluation,
    found: Mapping[str, Mapping[str, Any]],
    costs: Mapping[str, Mapping[str, float]],
    commonest: Mapping[str, float | None],
) -> dict[str, Any]:
    """Everything as one JSON object; ratios are to the first model."""
    reference = next(iter(evaluation.models))
    floor = statistics.fmean(commonest[task] or 0.0 for task in evaluation.tasks)
    models = [
        {"name": name, "path": path, **costs[name], **found[name],
         "kept": kept_above(floor, found[name]["average"], found[reference]["average"]),
         "times_as_fast": costs[reference]["milliseconds_per_text"] / costs[name]["milliseconds_per_text"],
         "throughput_ratio": costs[name]["texts_per_second"] / costs[reference]["texts_per_second"]}
        for name, path in evaluation.models.items()
    ]  # fmt: skip
    return {
        "models": models,
        "commonest_label": dict(commonest),
        "precision": evaluation.config.deepspeed.torch_autocast.wanted,
        "config": evaluation.config.model_dump(mode="json"),
        "tasks": {name: task.model_dump(mode="json") for name, task in evaluation.tasks.items()},
        "seeds": list(evaluation.seeds),
    }


def kept_above(floor: float, own: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """Return the share of the reference's average score above `floor` that a model reaches.

    None where the reference is not above it by more than its own spread over seeds: there is nothing to keep.

    Args:
        floor: the average score of always giving the commonest label; tasks without classes count as 0.
    """
    room = reference["mean"] - floor
    return (own["mean"] - floor) / room if room > (reference["std"] or 0.0) else None


def render_table(results: Mapping[str, Any]) -> str:
    """Markdown: a row a model, then what the numbers are."""
    tasks = list(results["tasks"])
    head = ["", "parameters (without embeddings)", "ms a text", "texts/s", *tasks, "average", "kept"]
    rows = [_row(model, tasks, model is results["models"][0]) for model in results["models"]]
    commonest = [results["commonest_label"][task] for task in tasks]
    shares = ["" if share is None else percent(share, None) for share in commonest]
    if any(shares):
        rows.append(["always the commonest label", "", "", "", *shares, "", ""])
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", _method(results), ""])


def _row(model: Mapping[str, Any], tasks: Sequence[str], is_reference: bool) -> list[str]:
    millions = f"{model['num_parameters'] / 1e6:.1f}M ({model['num_non_embedding'] / 1e6:.1f}M)"
    speed = f"{model['milliseconds_per_text']:.1f}", f"{model['texts_per_second']:.0f}"
    if not is_reference:
        ratios = model["times_as_fast"], model["throughput_ratio"]
        speed = tuple(f"{value} ({ratio:.1f} x)" for value, ratio in zip(speed, ratios, strict=True))  # type: ignore[assignment]
    scores = [percent(one["mean"], one["std"]) for one in (*(model["tasks"][task] for task in tasks), model["average"])]
    kept = "" if is_reference or model["kept"] is None else f"{100 * model['kept']:.1f} %"
    return [model["name"], millions, *speed, *scores, kept]


def percent(mean: float, std: float | None) -> str:
    """In hundredths, with the spread over seeds where there is one."""
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _method(results: Mapping[str, Any]) -> str:
    recipe, seeds = results["config"]["fine_tuning"], len(results["seeds"])
    tasks = results["models"][0]["tasks"]
    metrics = ", ".join(f"{name} {one['metric']}" for name, one in tasks.items())
    most = recipe["max_train_examples"]
    return (
        f"Development sets, in hundredths: {metrics}. Mean of {seeds} seed(s), ± the standard deviation over them. "
        f"Every model is fine-tuned alike: {recipe['epochs']:g} epochs"
        + (f" of at most {most:,} training examples" if most else "")
        + (f", a further {held:,} (a tenth of all at most) held out" if (held := recipe["num_held_out"]) else "")
        + f", batches of {results['config']['deepspeed']['train_batch_size']}, {_choice(recipe, seeds, tasks)}"
        + (f", head and pooler at {ratio:g} times it" if (ratio := recipe["head_lr_ratio"]) != 1 else "")
        + f". Fine-tuned in {results['precision']}"
        + (f" on {results['machine']}" if results.get("machine") else "")
        + ". Speed: the encoder and its tokenizer on the same texts, float32 on one thread of "
        f"{results['processor']}, one at a time and in batches of 32, medians, the models taking turns. "
        f"Ratios are to {results['models'][0]['name']}. {_kept(results)}"
        + _edges(recipe["learning_rates"], results["models"])
        + "".join(f" {remark}." for remark in results.get("remarks", ()))
    )


def _kept(results: Mapping[str, Any]) -> str:
    """What the last column counts, or why it is empty."""
    name = results["models"][0]["name"]
    if results["models"][0]["kept"] is None:
        return f"Nothing is kept of {name}: its average is not above always giving the commonest label."
    return (
        f"Kept: the share of what {name} scores above always giving the commonest label (0 for tasks without classes)."
    )


def _edges(rates: Sequence[float], models: Sequence[Mapping[str, Any]]) -> str:
    """Whose best learning rate may lie outside the grid."""
    said = []
    for edge, rate in (("lowest", min(rates)), ("highest", max(rates))) if len(rates) > 1 else ():
        chosen = {one["name"]: [n for n, t in one["tasks"].items() if t["learning_rate"] == rate] for one in models}
        said += [f"{name} the {edge} on {', '.join(tasks)}" for name, tasks in chosen.items() if tasks]
    return f" A wider grid might serve who chose an end of it: {'; '.join(said)}." if said else ""


def _choice(recipe: Mapping[str, Any], num_seeds: int, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    rates, num_choosing = recipe["learning_rates"], min(num_seeds, recipe["num_choosing_seeds"])
    if len(rates) == 1:
        return f"learning rate {rates[0]:g}"
    without = [name for name, one in tasks.items() if not one["held_out"]]
    examples = "training examples held out" if len(without) < len(tasks) else "the development examples themselves"
    if 0 < len(without) < len(tasks):
        examples += f" (for {', '.join(without)}, of too few texts, the development examples themselves)"
    return (
        f"the learning rate (of {', '.join(f'{rate:g}' for rate in rates)}) chosen for each model and task with the "
        f"first {f'{num_choosing} seeds' if num_choosing > 1 else 'seed'}, on {examples}"
    )
