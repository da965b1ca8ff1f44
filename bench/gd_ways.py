"""The ways to make a training step that bench/gd_step.py compares; each runs in a process of its own.

    python bench/gd_ways.py --way ours --students 4l312d --rows 8 --row-tokens 128

Reads a line, makes a step, and answers with a JSON line: seconds, peak bytes, seconds of its phases. Models are random,
the same sizes for every way, rows full, dropout off, everything updated by AdamW.
"""

import argparse
import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from bench.clock import DEVICE, Phases, clock

TEACHER = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
SIZES = {"4l312d": (4, 312, 1200), "4l384d": (4, 384, 1536), "6l312d": (6, 312, 1200), "6l384d": (6, 384, 1536),
         "6l768d": (6, 768, 3072)}  # fmt: skip
VOCAB = 21128
# Makes a step of a batch, and gives what tells the seconds of its phases once the device is done.
Step = Callable[[dict[str, Tensor]], Callable[[], dict[str, float]]]


def set_teacher(sizes: str) -> None:
    """Layers x width, for example 24x1024; heads of 64 and a feed-forward of four widths."""
    layers, width = map(int, sizes.split("x"))
    TEACHER.update(num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 64)
    TEACHER.update(intermediate_size=4 * width)


def relation_heads(name: str) -> int:
    """The most that divide both widths, up to the R of MiniLMv2: 48 for base models, 64 for large ones."""
    widths = SIZES[name][1], TEACHER["hidden_size"]
    most = 48 if TEACHER["hidden_size"] <= 768 else 64
    return max(heads for heads in range(1, most + 1) if not any(width % heads for width in widths))


def bert(attention: str = "eager", **sizes: int) -> Any:
    """A random BERT without a pooler."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=VOCAB, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes
    )
    return AutoModel.from_config(config, attn_implementation=attention, add_pooling_layer=False)


def student_model(name: str, attention: str = "eager") -> Any:
    layers, width, inner = SIZES[name]
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 12, "intermediate_size": inner}
    return bert(attention, **sizes).to(DEVICE)


def build_models(
    students: list[str], objective: str, rows: int, kernel: str = "auto", dtype: str = "auto"
) -> tuple[Any, list[Any]]:
    """The trainer's own teacher and the students' engines, with random weights, the same every time."""
    from pretrain.engines.deepspeed_config import AutocastConfig, DeepSpeedConfig
    from pretrain.engines.engine import StudentEngine
    from pretrain.models.teacher import Teacher
    from pretrain.precision import choose_dtype
    from pretrain.ranks.process_group import start_distributed
    from pretrain.students.config import StudentConfig
    from pretrain.students.student import build_student

    start_distributed()
    dtype = choose_dtype(dtype, DEVICE)
    autocast = AutocastConfig.of(dtype)
    deepspeed = DeepSpeedConfig(train_batch_size=rows, train_micro_batch_size_per_gpu=rows, torch_autocast=autocast)
    teacher_model, configs = bert(**TEACHER), []
    for name in students:
        layers, width, inner = SIZES[name]
        wanted = {"type": objective} | (
            # The last layer, as in the other ways: of 24 the objective itself would stop at 21.
            {
                "num_relation_heads": relation_heads(name),
                "teacher_layer": TEACHER["num_hidden_layers"],
                "kernel": kernel,
            }
            if objective == "minilm_v2"
            else {}
        )
        values = {"name": name, "num_layers": layers, "hidden_size": width, "num_attention_heads": 12}
        values |= {"intermediate_size": inner, "optimizer": {"lr": 1e-4}, "schedule": {}, "objective": [wanted]}
        configs.append(StudentConfig.model_validate(values))
    built = [build_student(config, teacher_model, 0) for config in configs]
    teacher = Teacher(teacher_model, [student.teacher_reads for student in built], dtype, DEVICE)
    for student in built:
        student.to(DEVICE).freeze_unreached(teacher)
    pairs = zip(built, configs, strict=True)
    return teacher, [StudentEngine(student, config, deepspeed, 10**6, 1) for student, config in pairs]


def ours(students: list[str], objective: str, rows: int, kernel: str = "auto", dtype: str = "auto") -> Step:
    """A step as the trainer makes it.

    Nothing waits for the device inside it; the phases of a GPU's step are those between its own time stamps.
    """
    teacher, engines = build_models(students, objective, rows, kernel, dtype)
    phases = Phases()
    for engine in engines:
        for phase in ("backward", "step"):
            setattr(engine.engine, phase, phases.timed(phase, getattr(engine.engine, phase)))
    teacher_pass = phases.timed("teacher", teacher)

    def step(batch: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
        phases.begin()
        features = teacher_pass(batch)
        for engine in engines:
            engine.train_micro_batch(batch, features, 0)
        return phases.end()

    return step


def last_projections(model: Any, store: dict[str, Tensor]) -> None:
    """Hooks that keep what query, key and value of the last layer give."""
    attention = model.encoder.layer[-1].attention.self
    for name in ("query", "key", "value"):
        getattr(attention, name).register_forward_hook(lambda _, __, out, name=name: store.__setitem__(name, out))


def straight_minilm_v2(student_name: str, low_precision: bool) -> Step:
    """MiniLMv2 as its equations read, on whole Hugging Face models; float32, or bfloat16 with fused attention."""
    attention = "sdpa" if low_precision else "eager"
    teacher, student = bert(attention, **TEACHER).to(DEVICE).eval(), student_model(student_name, attention)
    heads, of_teacher, of_student = relation_heads(student_name), {}, {}
    last_projections(teacher, of_teacher)
    last_projections(student, of_student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)

    def relation(tensor: Tensor) -> Tensor:
        split = tensor.float().unflatten(-1, (heads, -1)).transpose(1, 2)
        return (split @ split.mT / split.shape[-1] ** 0.5).log_softmax(-1)

    def step(batch: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=low_precision):
            with torch.no_grad():
                teacher(**batch)
            student(**batch)
        loss = torch.zeros((), device=DEVICE)
        for name in ("query", "key", "value"):
            p, q = relation(of_teacher[name]), relation(of_student[name])
            loss = loss + nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return dict

    return step


def scores_kept(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Plain attention that keeps its scores, as TinyBERT's own modelling code does."""
    module.scores = q @ k.mT * q.shape[-1] ** -0.5 + (0 if mask is None else mask)
    return (module.scores.softmax(-1) @ v).transpose(1, 2).contiguous(), None


def straight_tinybert(student_name: str) -> Step:
    """After the published general_distill.py: float32, every layer's scores and states, masked scores zeroed."""
    from transformers import AttentionInterface

    AttentionInterface.register("scores_kept", scores_kept)
    teacher, student = bert("eager", **TEACHER).to(DEVICE).eval(), student_model(student_name)
    for model in (teacher, student):
        model.set_attn_implementation("scores_kept")
    fit = nn.Linear(student.config.hidden_size, TEACHER["hidden_size"]).to(DEVICE)
    optimizer = torch.optim.AdamW([*student.parameters(), *fit.parameters()], lr=1e-4)
    stride = TEACHER["num_hidden_layers"] // student.config.num_hidden_layers

    def step(batch: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
        with torch.no_grad():
            of_teacher = teacher(**batch, output_hidden_states=True).hidden_states
        of_student = student(**batch, output_hidden_states=True).hidden_states
        loss = torch.zeros((), device=DEVICE)
        for index, layer in enumerate(student.encoder.layer):
            pair = layer.attention.self.scores, teacher.encoder.layer[stride * index + stride - 1].attention.self.scores
            a, b = (torch.where(scores <= -1e2, torch.zeros_like(scores), scores) for scores in pair)
            loss = loss + nn.functional.mse_loss(a, b)
        for index, states in enumerate(of_student):
            loss = loss + nn.functional.mse_loss(fit(states), of_teacher[stride * index])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return dict

    return step


def bertdistiller(student_name: str) -> Step:
    """The loss of the package's own trainer, in float32 as it comes."""
    from bertdistiller.distillation.minilm.trainer import MiniLMTrainer

    teacher, student = bert("sdpa", **TEACHER).to(DEVICE).eval(), student_model(student_name, "sdpa")
    teacher.config.architectures = ["BertForMaskedLM"]
    layers = SIZES[student_name][0]
    trainer = MiniLMTrainer.__new__(MiniLMTrainer)  # its step without the loop of transformers around it
    trainer.teacher, trainer.kl_loss = teacher, nn.KLDivLoss(reduction="sum")
    trainer.args = SimpleNamespace(
        teacher_layer=12, student_layer=layers, num_relation_heads=relation_heads(student_name),
        relations=dict.fromkeys(((1, 1), (2, 2), (3, 3)), 1.0),
    )  # fmt: skip
    trainer.attention_extractor = trainer._get_attention_extractor()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)

    def step(batch: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
        trainer.compute_loss(student, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        return dict

    return step


def build(way: str, students: list[str], rows: int, kernel: str = "auto", dtype: str = "auto") -> Step:
    if way in ("ours", "ours, tinybert", "ours, memory given back"):
        if "given back" in way:
            from pretrain.engines import engine

            engine.keep_freed_memory = lambda: None
        return ours(students, "tinybert" if "tinybert" in way else "minilm_v2", rows, kernel, dtype)
    ways = {
        "straight float32": lambda name: straight_minilm_v2(name, low_precision=False),
        "straight bfloat16": lambda name: straight_minilm_v2(name, low_precision=True),
        "straight tinybert": straight_tinybert,
        "bertdistiller": bertdistiller,
    }
    return ways[way](students[0])


def batches(rows: int, row_tokens: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(5, VOCAB, (rows, row_tokens), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        yield {name: tensor.to(DEVICE) for name, tensor in batch.items()}


def peak_bytes() -> int:
    """Of the device, or of this process where that is the CPU."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", required=True)
    parser.add_argument("--students", nargs="+", choices=SIZES, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--row-tokens", type=int, required=True)
    parser.add_argument("--teacher", default="12x768")
    parser.add_argument("--kernel", choices=("auto", "portable", "triton"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of ours")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    set_teacher(arguments.teacher)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like; answers go where nothing else does
    step = build(arguments.way, arguments.students, arguments.rows, arguments.kernel, arguments.dtype)
    for batch in batches(arguments.rows, arguments.row_tokens):
        if not sys.stdin.readline():
            return
        if arguments.way.startswith("ours"):
            del batch["attention_mask"]  # the trainer drops a mask that masks nothing
        start = clock()
        phases = step(batch)
        answer = {"seconds": clock() - start, "peak_bytes": peak_bytes(), "phases": phases()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
