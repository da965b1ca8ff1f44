"""An exported student: graphs and what reads them beside, written aside, compared with the model, renamed."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corpus.vocabulary.saved import save_tokenizer
from launch.command_line.output_folder import new_output_folder
from launch.exporting.card import add_to_card
from launch.exporting.comparison import (
    FLOAT32,
    INT4_FORM,
    INT8_FORM,
    MODEL,
    Answerer,
    Material,
    ask_all,
    compare,
    losses,
)
from launch.exporting.graph import GRAPH, INT4, INT8, check_libraries, write_graph, write_int4, write_int8
from launch.exporting.latency import measure_latency, timed
from launch.exporting.material import read_material
from launch.exporting.onnx_process import OnnxProcess
from launch.exporting.student import Exported, read_student
from launch.reports.folders import file_megabytes
from pretrain.device import cpu_name
from pretrain.models.pretrained import load_pretrained
from pretrain.progress import Progress

_BESIDE = ("*.json", "*.txt", "*.model", "README.md", "LICENSE*")  # what a folder has beside its weights
_LIBRARIES = ("torch", "transformers", "onnxruntime")


class LostError(ValueError):
    """A graph lost more than is allowed; `record` is what was measured."""

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record


def export(
    student: Path, output: Path, int8: bool = False, int4: bool = False, check: Path | None = None,
    task: str | None = None, force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write a student as ONNX and return what was measured, which export.json and the card have too.

    Raise ValueError if it cannot be exported, and LostError if it lost more than the limits of comparison.py and not
    `force`; then no folder appears.
    """
    check_libraries()
    if not student.is_dir():
        raise ValueError(f"--student {student}: there is no such folder")
    exported = read_student(student)
    material = read_material(exported, check, task)
    with new_output_folder(output) as partial:
        copy_settings(exported, partial)
        (partial / GRAPH).parent.mkdir()
        forms = {MODEL: None, FLOAT32: partial / GRAPH}
        forms |= {INT8_FORM: partial / INT8} if int8 else {}
        forms |= {INT4_FORM: partial / INT4} if int4 else {}
        try:
            with Progress("writing the graph"):
                write_graph(exported.answers, partial / GRAPH)
        except ValueError as error:
            raise ValueError(f"{student}: {error}") from error
        if int8:
            with Progress("writing 8-bit weights"):
                write_int8(partial / GRAPH, partial / INT8)
        if int4:
            with Progress("writing 4-bit weights"):
                write_int4(partial / GRAPH, partial / INT4)
        record = measure(exported, forms, material, partial)
        if (lost := losses(record["forms"])) and not force:
            raise LostError(f"{output}: not written: {'; '.join(lost)}; --force writes it as it is", record)
        record["lost"] = lost
        (partial / "export.json").write_text(json.dumps(record, ensure_ascii=False, indent=2), encoding="utf-8")
        add_to_card(record, partial, output.name)
    return record


def copy_settings(student: Exported, folder: Path) -> None:
    """Copy what a student's folder has beside its weights, and write its tokenizer for every reader."""
    for pattern in _BESIDE:
        for path in student.folder.glob(pattern):
            if not path.name.endswith((".index.json", "files.json")):
                shutil.copyfile(path, folder / path.name)
    if student.answers.vectors:
        for module in json.loads((student.folder / "modules.json").read_bytes()):
            if module["path"] and (student.folder / module["path"]).is_dir():
                shutil.copytree(student.folder / module["path"], folder / module["path"])
    save_tokenizer(student.tokenizer, folder, student.max_tokens)


def measure(student: Exported, forms: Mapping[str, Path | None], material: Material, folder: Path) -> dict[str, Any]:
    """Compare the model with the graphs in a process without torch, and time all of them on one thread."""
    with OnnxProcess() as process, torch.no_grad():
        if material.texts:
            _check_tokenizer(student, process, material, folder)

        def by(graph: Path) -> Answerer:
            return lambda batch: process.answer(graph, batch)[0]

        def seconds(graph: Path) -> Callable[[Mapping[str, Tensor]], float]:
            return lambda batch: process.answer(graph, batch)[1]

        graphs = {name: graph for name, graph in forms.items() if graph}
        row = {name: torch.ones(1, 16, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
        row = {name: tensor[:, : student.max_tokens] for name, tensor in row.items()}
        starts = {MODEL: _start_of_model(student, row)} | {name: seconds(one)(row) for name, one in graphs.items()}
        answerers = {MODEL: student.answers.answer} | {name: by(graph) for name, graph in graphs.items()}
        longest = min(student.max_tokens, 128)
        answered = ask_all(answerers, material, student.tokenizer, longest, student.vocab_size)
        figures = compare(answered, material)
        clocks = {MODEL: timed(student.answers.answer)} | {name: seconds(graph) for name, graph in graphs.items()}
        times = measure_latency(clocks, student.vocab_size, student.max_tokens)
    sizes = {name: graph.stat().st_size / 1e6 for name, graph in graphs.items()}
    sizes[MODEL] = file_megabytes(str(student.folder)) or 0.0
    return {
        "student": student.folder.resolve().name,
        "head": student.head,
        "inputs": student.answers.inputs,
        "outputs": student.answers.outputs,
        "checked_on": material.described,
        "score": material.task.scored_by if material.task else "neighbour accuracy" if material.labels else None,
        "processor": cpu_name(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "forms": {
            name: {
                "file": str(graph.relative_to(folder)) if graph else None,
                "megabytes": sizes[name],
                "milliseconds": times[name],
                "start_milliseconds": 1e3 * starts[name],
            }
            | figures[name]
            for name, graph in forms.items()
        },
    }


def _check_tokenizer(student: Exported, process: OnnxProcess, material: Material, folder: Path) -> None:
    """Raise ValueError if the written tokenizer.json, read without transformers, gives a text other ids."""
    wanted = student.tokenizer(list(material.texts), truncation=True, max_length=student.max_tokens)["input_ids"]
    found = process.tokenize(folder, material.texts, student.max_tokens)
    if differ := [text for text, a, b in zip(material.texts, wanted, found, strict=True) if a != b]:
        raise ValueError(
            f"{student.folder}: its tokenizer.json gives other ids than its tokenizer for {len(differ):,} of "
            f"{len(found):,} texts, such as {differ[0][:40]!r}"
        )


def _start_of_model(student: Exported, row: Mapping[str, Tensor]) -> float:
    """Return the seconds of loading the model and answering once."""
    start = time.perf_counter()
    model = load_pretrained(type(student.answers.model), str(student.folder), dtype=torch.float32).eval()
    model(input_ids=row["input_ids"])
    return time.perf_counter() - start
