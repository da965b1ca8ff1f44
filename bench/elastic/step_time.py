"""The time of a step of an elastic student, over that of its largest size alone: both take turns, in one process.

    python bench/elastic/step_time.py [--rows 16] [--row-tokens 64] [--rounds 7] [--teacher 12x384] [--vocabulary 41343]

Teacher and student 4 x 312 are random; states and relations are learned, in float32. Processor time on one thread, so
that other work on the machine counts little; medians.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from transformers import BertConfig, BertModel

from pretrain.device import cpu_name
from pretrain.models.teacher import Teacher
from pretrain.optimizer import build_optimizer
from pretrain.students.config import StudentConfig
from pretrain.students.student import build_student

STUDENT: dict[str, Any] = {
    "name": "student", "num_layers": 4, "hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200,
    "optimizer": {"lr": 0.001}, "schedule": {},
}  # fmt: skip
SIZES = {"depths": [2, 4], "feed_forward": [600, 1200]}
WAYS = {"largest alone": None, "all four sizes": SIZES, "sandwich": SIZES | {"sample": "sandwich"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--rows", 16), ("--row-tokens", 64), ("--rounds", 7), ("--vocabulary", 41343)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--teacher", default="12x384", metavar="LAYERSxWIDTH")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers, width = map(int, options.teacher.split("x"))
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    heads = max(one for one in range(1, 17) if width % one == 0)
    model = BertModel(BertConfig(**sizes, num_attention_heads=heads, vocab_size=options.vocabulary)).eval()
    relations = {"type": "minilm_v2", "num_relation_heads": math.gcd(STUDENT["hidden_size"], width)}  # 24, or 8 of 1024
    settings = STUDENT | {"objective": [relations, {"type": "hidden_states"}]}
    students = {
        name: build_student(StudentConfig.model_validate(settings | {"elastic": elastic}), model, 0)
        for name, elastic in WAYS.items()
    }
    optimizers = {
        name: build_optimizer(one, StudentConfig.model_validate(settings).optimizer) for name, one in students.items()
    }
    teacher = Teacher(model, [one.teacher_reads for one in students.values()], "float32", "cpu")
    ids = torch.randint(5, options.vocabulary, (options.rows, options.row_tokens))
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    seconds: dict[str, list[float]] = {name: [] for name in ("teacher", *WAYS)}
    for step in range(options.rounds + 1):
        start = time.process_time()
        features = teacher(batch)
        seconds["teacher"].append(time.process_time() - start)
        for name, student in students.items():
            student.step, start = step, time.process_time()
            student(batch, features)[0].backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"{cpu_name()}, torch {torch.__version__}, teacher {options.teacher}, {options.rows} x {options.row_tokens}")
    alone = medians["teacher"] + medians["largest alone"]
    for name, value in medians.items():
        ratio = "" if name == "teacher" else f"; with the teacher {(medians['teacher'] + value) / alone:.2f} of alone"
        print(f"{name:<16}{value:8.3f} s{ratio}")


if __name__ == "__main__":
    main()
