"""What a run gave, as one HTML page and the same numbers as JSON beside it.

    python launch/report.py --run demo/run --labels demo/labels --documents demo/text/heldout.jsonl \\
        --heldout demo/heldout --output demo/report.html \\
        --models teacher=demo/teacher student=demo/students/4l384d untrained=demo/run/start/4l384d

The first model is the teacher: the others are compared with it.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.shards.manifest import Manifest, load_manifest
from launch.job.messages import mute_transformers
from launch.reports.charts import draw_accuracy, draw_run
from launch.reports.models import (
    MAX_TOKENS,
    Labelled,
    Models,
    Pairs,
    measure_models,
    read_labelled,
    read_models,
    read_pairs,
)
from launch.reports.page import render_page
from launch.reports.run import Run, read_run
from pretrain.device import cpu_name, device_name
from pretrain.precision import native_dtypes
from pretrain.probes.vectors import NUM_NEIGHBOURS, chance_accuracy


def duration(seconds: float) -> str:
    """In the unit a reader would choose."""
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def summarise(run: Run, teacher: Mapping[str, Any]) -> str:
    """What was distilled, in one sentence. ValueError where config.json or metrics.jsonl is not what a run writes."""
    try:
        return _summary(run, teacher)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config.json or metrics.jsonl of the run: not what a run writes: {error!r}") from error


def _summary(run: Run, teacher: Mapping[str, Any]) -> str:
    students = [f"{s['name']} ({s['num_layers']} layers × {s['hidden_size']})" for s in run.config["students"]]
    last = run.metrics[-1]
    return (
        f"{', '.join(students)} learned from {Path(run.config['teacher']['path']).name} "
        f"({teacher['num_layers']} layers × {teacher['hidden_size']}, {teacher['num_parameters'] / 1e6:.1f} "
        f"million parameters) by reading {last['tokens'] / 1e6:.1f} million tokens of unlabelled text in "
        f"{last['step']:,.0f} steps, {duration(last['seconds'])}."
    )


def describe_method(
    train: Labelled, query: Labelled, pairs: Pairs | None, heldout: bool, reference: str, dtype: str = "float32"
) -> str:
    """How the table's numbers were measured."""
    relations = (
        "Held-out relation loss: QQ + KK + VV against the teacher on rows that no model was trained on. "
        if heldout
        else ""
    )
    retrieval = (
        f"Retrieval: titles of {len(pairs[0]):,} held-out documents whose nearest text is their own. " if pairs else ""
    )
    return (
        f"Accuracy: {len(query[0]):,} texts labelled by their {NUM_NEIGHBOURS} nearest neighbours among "
        f"{len(train[0]):,} labelled ones, {len(set(train[1]))} classes (always the commonest gives "
        f"{100 * chance_accuracy(query[1]):.1f} %), by the mean of the last hidden states, centred, cut at "
        f"{MAX_TOKENS} tokens, computed in {dtype}, nothing fine-tuned; ± is one standard error. Speed: the same "
        f"texts, tokenising included, float32 on one thread of {cpu_name()}, one at a time and in batches of 32, "
        f"medians, the models taking turns. {retrieval}{relations}Ratios are to {reference}."
    )


def build_report(
    run: Run, models: Models, train: Labelled, query: Labelled, pairs: Pairs | None, heldout: Manifest | None
) -> tuple[dict[str, Any], str]:
    """(the numbers, the page)."""
    dtype = native_dtypes("cpu")[0]
    rows = measure_models(models, train, query, pairs, heldout, dtype)
    report = {
        "title": f"Distilled: {', '.join(run.students)}",
        "summary": summarise(run, rows[0]),
        "method": describe_method(train, query, pairs, heldout is not None, rows[0]["name"], dtype),
        "models": rows,
        "machine": device_name("cpu"),
        "precision": dtype,
        "probe": {
            "num_neighbours": NUM_NEIGHBOURS,
            "max_tokens": MAX_TOKENS,
            "num_train": len(train[0]),
            "num_queries": len(query[0]),
            "chance": chance_accuracy(query[1]),
        },
        "last_step": run.metrics[-1],
        "facts": run.facts,
        "config": run.config,
    }
    accuracy_chart = ("Accuracy, with one standard error", draw_accuracy(rows, chance_accuracy(query[1])))
    return report, render_page(report, [accuracy_chart, *draw_run(run)])


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when both files are written, 2 with one line on stderr otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", help="the teacher first")
    parser.add_argument("--labels", type=Path, required=True, help="folder of train.jsonl and dev.jsonl")
    parser.add_argument("--documents", type=Path, help='{"title", "text"} lines: titles are to find their texts')
    parser.add_argument("--heldout", type=Path, help="a corpus nobody was trained on, for the relation loss")
    parser.add_argument("--output", type=Path, required=True, help="the page; its JSON goes beside it")
    options = parser.parse_args(arguments)
    mute_transformers()
    warnings.showwarning = lambda message, *_: print(f"report: {message}", file=sys.stderr)
    try:
        run = read_run(options.run)
        train = read_labelled(options.labels / "train.jsonl")
        query = read_labelled(options.labels / "dev.jsonl")
        pairs = read_pairs(options.documents) if options.documents else None
        heldout = load_manifest(options.heldout) if options.heldout else None
        models = read_models(options.models)
        report, page = build_report(run, models, train, query, pairs, heldout)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(page, encoding="utf-8")
        numbers = json.dumps(report, indent=2, ensure_ascii=False)
        options.output.with_suffix(".json").write_text(numbers + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.output}: {report['summary']}")
    print(f"next: open {options.output} in a browser; your own text and teacher: docs/guide.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
