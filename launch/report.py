"""What a run gave, as one HTML page and the same numbers as JSON beside it.

    python launch/report.py --run demo/run --labels demo/labels --output demo/report.html \\
        --models teacher=demo/teacher student=demo/students/4l312d untrained=demo/untrained

The first model is the one that the others are compared with.
"""

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from launch.report_charts import draw_accuracy, draw_run
from launch.report_page import render_page
from launch.report_run import Run, read_run
from pretrain.probe import compare_cost, mean_pooled, nearest_neighbour_accuracy

MAX_TOKENS = 64
NUM_NEIGHBOURS = 10

Labelled = tuple[list[str], list[int | str]]
Models = dict[str, tuple[Any, Any]]


def read_labelled(path: Path) -> Labelled:
    """(texts, labels) of a file of {"text", "label"} lines. ValueError naming file and line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file of labelled texts")
    texts: list[str] = []
    labels: list[int | str] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                text, label = record["text"], record["label"]
            except (ValueError, TypeError, KeyError):
                text = label = None
            if not isinstance(text, str) or not isinstance(label, int | str):
                raise ValueError(f'{path}:{number}: want {{"text": ..., "label": ...}}')
            texts.append(text)
            labels.append(label)
    if not texts:
        raise ValueError(f"{path}: no labelled texts")
    return texts, labels


def read_models(arguments: list[str]) -> Models:
    """`{name: (model, tokenizer)}` of `NAME=FOLDER` arguments, float32, without a pooler (no probe needs it).

    ValueError for an argument of another form, a name given twice, or a folder without model and tokenizer.
    """
    models: Models = {}
    for argument in arguments:
        name, found, folder = argument.partition("=")
        if not (name and found and folder) or name in models:
            raise ValueError(f"--models {argument}: want NAME=FOLDER, each name once")
        try:
            models[name] = read_model(Path(folder))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"--models {argument}: {str(error).splitlines()[0]}") from error
    return models


def read_model(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face folder. ValueError where part of either is not there."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"no model in {folder} (it has no config.json)")
    model, loaded = AutoModel.from_pretrained(folder, dtype="float32", output_loading_info=True)
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing:  # transformers would go on with random numbers in their place
        raise ValueError(f"{len(missing)} weights are not in {folder}, such as {missing[0]}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(f"{len(tokenizer)} tokens for {model.config.vocab_size} embeddings in {folder}")
    if hasattr(model, "pooler"):
        model.pooler = None
    return model.eval(), tokenizer


def probe_models(models: Models, train: Labelled, query: Labelled) -> dict[str, dict[str, float]]:
    """`accuracy` and `standard_error` of each model's mean-pooled vectors."""
    scores = {}
    for name, (model, tokenizer) in models.items():
        vectors = mean_pooled(
            model,
            tokenizer,
            train[0] + query[0],
            max_tokens=MAX_TOKENS,
            autocast=True,
            progress=f"probe {name}",
        )
        near, asked = vectors[: len(train[0])], vectors[len(train[0]) :]
        result = nearest_neighbour_accuracy(near, train[1], asked, query[1], NUM_NEIGHBOURS)
        scores[name] = dict(zip(("accuracy", "standard_error"), result, strict=True))
    return scores


def measure_models(
    models: Models, train: Labelled, query: Labelled, heldout_losses: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row of numbers for each model; `heldout_relation_loss` only where `heldout_losses` names it."""
    scores = probe_models(models, train, query)
    costs = compare_cost(models, query[0], max_tokens=MAX_TOKENS)
    rows = []
    for name, (model, _) in models.items():
        row = {
            "name": name,
            "num_layers": model.config.num_hidden_layers,
            "hidden_size": model.config.hidden_size,
        }
        row |= costs[name] | scores[name]
        if name in heldout_losses:
            row["heldout_relation_loss"] = heldout_losses[name]
        rows.append(row)
    return rows


def duration(seconds: float) -> str:
    """In the unit a reader would choose."""
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def summarise(run: Run, teacher: Mapping[str, Any]) -> str:
    """What was distilled, in one sentence."""
    students = [f"{s['name']} ({s['num_layers']} layers × {s['hidden_size']})" for s in run.config["students"]]
    last = run.metrics[-1]
    return (
        f"{', '.join(students)} learned from {Path(run.config['teacher']['path']).name} "
        f"({teacher['num_layers']} layers × {teacher['hidden_size']}, {teacher['num_parameters'] / 1e6:.1f} "
        f"million parameters) by reading {last['tokens'] / 1e6:.1f} million tokens of unlabelled text in "
        f"{last['step']:,.0f} steps, {duration(last['seconds'])}."
    )


def describe_method(train: Labelled, query: Labelled, reference: str) -> str:
    """How the table's numbers were measured."""
    return (
        f"Accuracy: {len(query[0]):,} texts labelled by their {NUM_NEIGHBOURS} nearest neighbours among "
        f"{len(train[0]):,} labelled ones, {len(set(train[1]))} classes (always the commonest gives "
        f"{100 * chance_accuracy(query):.1f} %), by the mean of the last hidden states, centred, cut at "
        f"{MAX_TOKENS} tokens, nothing fine-tuned; ± is one standard error. Speed: the same texts, "
        "tokenising included, float32 on one CPU thread, one at a time and in batches of 32, medians, "
        f"the models taking turns. Ratios are to {reference}."
    )


def chance_accuracy(query: Labelled) -> float:
    """Accuracy of answering the commonest label."""
    return max(Counter(query[1]).values()) / len(query[1])


def build_report(
    run: Run, models: Models, train: Labelled, query: Labelled, heldout_losses: Mapping[str, float]
) -> tuple[dict[str, Any], str]:
    """(the numbers, the page)."""
    rows = measure_models(models, train, query, heldout_losses)
    report = {
        "title": f"Distilled: {', '.join(run.students)}",
        "summary": summarise(run, rows[0]),
        "method": describe_method(train, query, rows[0]["name"]),
        "models": rows,
        "probe": {
            "num_neighbours": NUM_NEIGHBOURS,
            "max_tokens": MAX_TOKENS,
            "num_train": len(train[0]),
            "num_queries": len(query[0]),
            "chance": chance_accuracy(query),
        },
        "last_step": run.metrics[-1],
        "facts": run.facts,
        "config": run.config,
    }
    accuracy_chart = ("Accuracy, with one standard error", draw_accuracy(rows, chance_accuracy(query)))
    return report, render_page(report, [accuracy_chart, *draw_run(run)])


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when both files are written, 1 with one line on stderr otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", help="the teacher first")
    parser.add_argument("--labels", type=Path, required=True, help="folder of train.jsonl and dev.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="the page; its JSON goes beside it")
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.showwarning = lambda message, *_: print(f"report: {message}", file=sys.stderr)
    try:
        run = read_run(options.run)
        train = read_labelled(options.labels / "train.jsonl")
        query = read_labelled(options.labels / "dev.jsonl")
        report, page = build_report(run, read_models(options.models), train, query, heldout_losses={})
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(page, encoding="utf-8")
        numbers = json.dumps(report, indent=2, ensure_ascii=False)
        options.output.with_suffix(".json").write_text(numbers + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {report['summary']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
