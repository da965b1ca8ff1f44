"""Compare models without fine-tuning, as one HTML page and the same numbers as JSON beside it.

    python launch/report.py --models teacher=TEACHER student=students/4l312d --task tnews --output report.html

The first model is the teacher: the others are compared with it. The task is a name in configs/tasks or the path of a
file like those, of single sentences; --labels takes a folder of train.jsonl and dev.jsonl of {"text", "label"} lines
instead. With --documents titles look for their texts, and --queries are searched for among them. With --pairs cosines
are to tell similar pairs. With --run the page has the run's losses and configuration too; its start/<student> folder,
given as a model, is the untrained twin. With --exported, folders of launch/export.py, the page shows score against
latency and size of every form.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.shards.manifest import load_manifest
from launch.command_line.next_command import load_line, next_line
from launch.command_line.terminal import accept_any_terminal
from launch.distillation.probe_pairs import read_documents, read_similar_pairs
from launch.evaluation.config import read_task_file
from launch.job.messages import mute_transformers
from launch.publishing.student_folder import load_options
from launch.reports.charts import draw_accuracy, draw_forms, draw_run
from launch.reports.exported import Form, describe, read_forms
from launch.reports.folders import find_twins, name_folders
from launch.reports.models import Material, labels_task, measure_models, read_models, read_texts
from launch.reports.page import render_page
from launch.reports.run import read_run, summarise
from launch.reports.screen import render_screen
from launch.reports.verdict import judge
from pretrain.device import cpu_name, device_name
from pretrain.precision import native_dtypes
from pretrain.probes.vectors import NUM_NEIGHBOURS


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Decode the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", help="the teacher first")
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--task", help="a name in configs/tasks or the path of a task file, of single sentences")
    texts.add_argument("--labels", type=Path, help='folder of train.jsonl and dev.jsonl, {"text", "label"} lines')
    parser.add_argument("--run", type=Path, help="folder of the run that trained the students")
    parser.add_argument("--documents", type=Path, help='{"title", "text"} lines: titles are to find their texts')
    parser.add_argument("--pairs", help="a task of pairs with labels 0 and 1: do cosines tell similar ones?")
    parser.add_argument("--queries", nargs="+", default=[], help="searched for among the documents; else some titles")
    parser.add_argument("--heldout", type=Path, help="a corpus that no model was trained on, for the relation loss")
    parser.add_argument("--exported", nargs="+", default=[], metavar="NAME=FOLDER", help="exported with one --task")
    parser.add_argument("--output", type=Path, required=True, help="the page; its JSON goes beside it")
    options = parser.parse_args(arguments)
    if options.queries and not options.documents:
        parser.error("--queries: there is nothing to search; give --documents")
    return options


def build_report(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Read everything, measure the models, and return (the numbers, the page).

    Raise ValueError or OSError for whatever cannot be read.
    """
    run = read_run(options.run) if options.run else None
    forms = read_forms(name_folders(options.exported, "--exported"))
    task = read_task_file(options.task, "--task") if options.task else labels_task(options.labels)
    documents = read_documents(options.documents) if options.documents else None
    pairs_task = read_task_file(options.pairs, "--pairs") if options.pairs else None
    heldout = load_manifest(options.heldout) if options.heldout else None
    material = Material(*read_texts(task), documents, tuple(options.queries), heldout, task.row_tokens)
    if pairs_task:
        pairs, name, pair_tokens = read_similar_pairs(pairs_task), pairs_task.name, pairs_task.row_tokens
        material = replace(material, pairs=pairs, pairs_task=name, pair_tokens=pair_tokens)
    folders = name_folders(options.models)
    max_tokens = max(task.row_tokens, pairs_task.row_tokens if pairs_task else 0)
    dtype = native_dtypes("cpu")[0]
    rows, search = measure_models(folders, read_models(folders, max_tokens), material, dtype)
    teacher, twins = rows[0], {name: _row(rows, twin) for name, twin in find_twins(folders).items()}
    students = [row for row in rows[1:] if not row["untrained"]]
    report = {
        "title": f"Distilled: {', '.join(run.students)}" if run else f"Compared: {', '.join(folders)}",
        "verdicts": [asdict(judge(teacher, row, material.chance, twins.get(row["name"]))) for row in students],
        "summary": summarise(run, teacher) if run else describe_models(rows),
        "method": [*describe_method(material, rows, dtype), *describe_forms(forms)],
        "models": rows,
        "search": search,
        "exported": describe(forms),
        "machine": device_name("cpu"),
        "precision": dtype,
        "probe": {
            "task": task.name,
            "num_neighbours": NUM_NEIGHBOURS,
            "max_tokens": material.max_tokens,
            "num_train": len(material.train[0]),
            "num_queries": len(material.asked[0]),
            "chance": material.chance,
        },
    }
    if run:
        report |= {"last_step": run.metrics[-1], "facts": run.facts, "config": run.config}
    charts = [("Accuracy, with one standard error", draw_accuracy(rows, material.chance))]
    return report, render_page(report, [*charts, *draw_forms(forms), *(draw_run(run) if run else [])])


def _row(rows: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["name"] == name)


def describe_models(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is compared, in one sentence."""
    sizes = [
        f"{row['name']} ({row['num_layers']} layers × {row['hidden_size']}, {row['num_parameters'] / 1e6:.1f} million "
        "parameters)"
        for row in rows
    ]
    return f"Compared without fine-tuning: {', '.join(sizes)}."


def describe_method(material: Material, rows: Sequence[Mapping[str, Any]], dtype: str = "float32") -> list[str]:
    """How the table's numbers were measured, column by column."""
    reference = rows[0]["name"]
    lines = [
        f"Size: parameters, and the weights' files as they lie on disk, where a float16 file is half as large. Ratios "
        f"are to {reference}.",
        f"Speed: tokenising included, float32 on one thread of {cpu_name()}, one text at a time and in batches of 32, "
        "medians, the models taking turns.",
        f"Accuracy: {len(material.asked[0]):,} texts, each labelled by its {NUM_NEIGHBOURS} nearest neighbours among "
        f"{len(material.train[0]):,} labelled ones of {len(set(material.train[1]))} classes; always the commonest "
        f"gives {100 * material.chance:.1f} %. Nothing is fine-tuned: a text is the mean of its last hidden states, "
        f"centred, cut at {material.max_tokens} tokens, computed in {dtype}; ± is one standard error.",
    ]
    if material.documents:
        lines.append(
            f"Retrieval: the titles of {len(material.documents[0]):,} held-out documents, each asked for its text. A "
            "text's vector is made as the model's sentence-transformers files say, with their prompts and map, or is "
            f"the mean. In the next column titles are by the model, texts by {reference}."
        )
        lines += [
            f"No vectors of {row['name']} are searched for among those of {reference}: {row['not_asymmetric']}."
            for row in rows
            if "not_asymmetric" in row
        ]
    if material.pairs:
        lines.append(
            f"Similar pairs: {len(material.pairs[2]):,} pairs of {material.pairs_task}; how often the cosine of a "
            "similar pair is higher than that of another one, by the same vectors."
        )
    if material.heldout:
        lines.append("Held-out relation loss: QQ + KK + VV against the teacher on rows that no model was trained on.")
    return [*lines, *(f"Note: {remark}." for remark in material.remarks)]


def describe_forms(forms: Sequence[Form]) -> list[str]:
    """How the exported forms were measured."""
    if not forms:
        return []
    return [f"Exported forms: {forms[0].measured}, as launch/export.py measured each; the line joins those that no "
            "other beats in both."]  # fmt: skip


def next_lines(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to type next: look at the page, load the last student, fine-tune teacher and student on the task."""
    folders = name_folders(options.models)
    trained = [row["name"] for row in rows if not row["untrained"]]
    student = Path(folders[trained[-1]])
    lines = [f"next: open {options.output} in a browser", load_line(student, options=load_options(student))]
    if options.task:
        models = ["--models", *(f"{name}={folders[name]}" for name in trained), "--tasks", options.task]
        quick = ["--seeds", "1", "--set", "fine_tuning.learning_rates=[1e-4]", "fine_tuning.epochs=2"]
        lines.append(next_line("python", "launch/evaluate_tasks.py", *models, *quick, "--output", "runs/evaluation"))
    return lines


def check_output(page: Path) -> None:
    """Raise ValueError if the page or its numbers, a JSON file beside it, would replace a file that is no report's."""
    numbers = page.with_suffix(".json")
    if page == numbers:
        raise ValueError(f"--output {page}: is where the numbers go; give the page a name that ends in .html")
    if not numbers.is_file():
        return
    try:
        found = json.loads(numbers.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"title", "models"} <= found.keys():
        raise ValueError(
            f"--output {page}: its numbers would replace {numbers}, which is no report's; give another name"
        )


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when both files are written, 2 after one line on stderr otherwise."""
    accept_any_terminal()
    options = parse_arguments(arguments)
    mute_transformers()
    warnings.showwarning = lambda message, *_: print(f"report: {message}", file=sys.stderr)
    try:
        check_output(options.output)
        report, page = build_report(options)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(page, encoding="utf-8")
        numbers = json.dumps(report, indent=2, ensure_ascii=False)
        options.output.with_suffix(".json").write_text(numbers + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(render_screen(report))
    print("\n".join(["", *next_lines(options, report["models"])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
