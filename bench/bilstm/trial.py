"""Train a BiLSTM on the first examples of a task, alone and taught, with several seeds: bench/bilstm/thucnews10.json.

python -m bench.bilstm.trial --output data/bilstm [--examples 1500] [--labelled 500] [--seeds 3] [--teacher FOLDER]

The same as the config's stages on as many examples, but for one thing: the teacher answers the training rows once, and
not in every run again. Writes the teacher, its answers, and a line of results.jsonl for each run; what is there is not
done again.
"""

import argparse
import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from launch.command_line.config_file import read_strictly
from launch.stages.config import NewStudent, TaskRunConfig
from pretrain.models.encoder import Features, Reads
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher
from pretrain.objectives.objective import Objective
from pretrain.optimizer import build_optimizer, build_schedule
from pretrain.students.student import Student
from tasks.batches import TaskBatches
from tasks.bilstm import build_bilstm
from tasks.evaluation import predict, score
from tasks.label_objectives import TaskObjective
from tasks.models import load_task_model
from tasks.readers import read_task
from tasks.rows import without_labels
from tasks.stage import EncodedTask, StageConfig, encode_task
from tasks.teachers import Answers

CONFIG = Path(__file__).with_name("thucnews10.json")
LABELS: dict[str, Any] = {"type": "labels"}
WAYS: dict[str, list[dict[str, Any]]] = {
    "labels": [LABELS],
    "labels, soft labels, T 1": [LABELS, {"type": "soft_labels", "temperature": 1.0}],
    "labels, soft labels, T 4": [LABELS, {"type": "soft_labels", "temperature": 4.0}],
    "logits alone": [{"type": "logits_mse"}],
}


def objectives(config: StageConfig, shape: EncoderShape) -> list[Objective]:
    """Return the losses of a stage."""
    return [one.build(shape, shape) for one in config.objective]


def train(model: Any, config: StageConfig, task: EncodedTask, seed: int, taught: Tensor | None = None) -> Student:
    """Train a task model as a stage on one rank does; `taught` has the teacher's logits [rows, C]."""
    student = Student("s", model, objectives(config, EncoderShape.of(model.config)), config.dropout_prob)
    batches = TaskBatches(task.train, task.tokenizer.pad_token_id, 32, seed)
    steps = round(config.epochs * batches.steps_per_epoch)
    optimizer = build_optimizer(student, config.optimizer, model.base_model)
    schedule = build_schedule(optimizer, config.schedule, steps)
    torch.manual_seed(seed)
    batches.answers = Answers([taught]) if taught is not None else None
    for batch in islice(batches.batches(0, 32), steps):
        loss, _ = student(batch, batches.answers(batch) if batches.answers else Features())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return student.eval()


def answers(student: Student | Teacher, rows: Any, task: EncodedTask) -> list[Tensor]:
    """Return the logits of rows."""

    def ask(batch: Any) -> Tensor:
        logits = student.encoder(batch).logits
        assert logits is not None
        return logits

    return predict(ask, rows, task.tokenizer.pad_token_id)


def accuracy(student: Student | Teacher, task: EncodedTask) -> float:
    """Return the accuracy on the development examples."""
    logits = answers(student, task.dev, task)
    return score(logits, task.dev, task.data.dev, task.config, task.data.labels)["accuracy"]


def main() -> None:
    """Fine-tune the teacher, let it answer, and train every way with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=1500, help="training examples, the first of the file")
    parser.add_argument("--labelled", type=int, help="students are told the labels of the first so many alone (all)")
    parser.add_argument("--dev", type=int, default=1000, help="development examples, the first of the file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", help="a model that is fine-tuned already; else the config's is")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="which of them (all)")
    parser.add_argument("--runs", type=int, default=1000, help="the most runs of this call")
    parser.add_argument("--set", nargs="+", default=[], dest="overrides")
    options = parser.parse_args()
    config = read_strictly(TaskRunConfig, CONFIG, options.overrides)
    assert config.stages.ft and config.stages.td2 and config.teacher and isinstance(config.student, NewStudent)
    torch.set_num_threads(1)
    data = read_task(config.task)
    data = replace(data, train=data.train[: options.examples], dev=data.dev[: options.dev])
    task, kind, path = encode_task(config.task, data, config.teacher.path), config.task.kind, options.output
    path.mkdir(parents=True, exist_ok=True)
    results = path / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    def note(way: str, seed: int, found: float, started: float) -> None:
        one = {"way": way, "seed": seed, "accuracy": found, "cpu_seconds": round(time.process_time() - started)}
        with results.open("a") as file:
            file.write(json.dumps(one) + "\n")
        print(one, flush=True)

    started = time.process_time()
    if not (path / "taught.pt").exists():
        if options.teacher:
            model = load_task_model(options.teacher, kind, data.labels, 0, needs_head=True)
            teacher: Student | Teacher = Teacher(model, [Reads(logits=True)], "auto", "cpu")
        else:
            model = load_task_model(config.teacher.path, kind, data.labels, config.training.seed)
            teacher = train(model, config.stages.ft, task, config.training.seed)
        note("teacher", config.training.seed, accuracy(teacher, task), started)
        torch.save(torch.stack(answers(teacher, task.train, task)), path / "taught.pt")
    if options.labelled is not None:
        known, others = task.train[: options.labelled], task.train[options.labelled :]
        task = replace(task, train=[*known, *map(without_labels, others)])
    taught = torch.load(path / "taught.pt", weights_only=True)
    made = {(one["way"], one["seed"]) for one in done}
    missing = [(way, seed) for seed in range(options.seeds) for way in WAYS if (way, seed) not in made]
    for way, seed in [one for one in missing if not options.ways or one[0] in options.ways][: options.runs]:
        started = time.process_time()
        losses = TypeAdapter(list[TaskObjective]).validate_python(WAYS[way])
        stage = config.stages.td2.model_copy(update={"objective": losses})
        build_bilstm(config.student.bilstm, kind, config.teacher.path, None, seed).save_pretrained(path / "start")
        student = load_task_model(str(path / "start"), kind, data.labels, seed)
        note(way, seed, accuracy(train(student, stage, task, seed, taught), task), started)


if __name__ == "__main__":
    main()
