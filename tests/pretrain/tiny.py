"""Tiny models and runs for the tests of pretrain."""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor
from transformers import AutoConfig, AutoModel

from pretrain.engines.deepspeed_config import AutocastConfig, DeepSpeedConfig
from pretrain.engines.engine import StudentEngine
from pretrain.models.encoder import Features
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher
from pretrain.precision import Dtype
from pretrain.probes.live_probe import LiveProbe
from pretrain.ranks.process_group import start_distributed
from pretrain.students.config import StudentConfig
from pretrain.students.student import build_student
from pretrain.training.trainer import Trainer, TrainingConfig
from tests import processes  # noqa: F401  (what the forkserver imports)

VOCAB, ROW_TOKENS = 50, 12


# What families need at a tiny size to have all that makes them different: windows, shared keys, relative positions
FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "roformer": {"embedding_size": 16},
    "modernbert": {"local_attention": 6, "pad_token_id": 0},
    "eurobert": {"num_key_value_heads": 2, "pad_token_id": 0},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {
        "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "sliding_window_pattern": 2,
        "use_bidirectional_attention": True, "query_pre_attn_scalar": 8,
    },
    "deberta-v2": {
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
        "position_biased_input": False, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3,
    },
}  # fmt: skip


def teacher_model(model_type: str = "bert", auto_class: Any = AutoModel, **changes: Any) -> Any:
    """A random encoder of 4 layers x 24 with 4 heads, or a task model around one."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 40, **FAMILY_SIZES.get(model_type, {})}
    torch.manual_seed(0)
    return auto_class.from_config(AutoConfig.for_model(model_type, **(sizes | changes)), dtype=torch.float32).eval()


def student_config(name: str = "small", **changes: Any) -> StudentConfig:
    """A student of 2 layers x 12 with both kinds of objective."""
    values = {"name": name, "num_layers": 2, "hidden_size": 12, "num_attention_heads": 4, "intermediate_size": 20}
    values |= {"optimizer": {"lr": 1e-3}, "schedule": {"warmup_ratio": 0.2}}
    values |= {"objective": [{"type": "minilm_v2", "num_relation_heads": 4}, {"type": "hidden_states"}]}
    return StudentConfig.model_validate(values | changes)


def batch(num_rows: int = 3, padding: bool = True, seed: int = 0) -> dict[str, Tensor]:
    """Random ids [B, L]; with padding, row 1 has 7 real tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (num_rows, ROW_TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def shape(
    num_layers: int = 4, hidden_size: int = 24, model_type: str = "bert", num_attention_heads: int = 4
) -> EncoderShape:
    """Sizes, for objectives without models."""
    return EncoderShape(model_type, num_layers, hidden_size, num_attention_heads, 32, VOCAB, 40)


def features(num_layers: int, width: int, seed: int, requires_grad: bool = False) -> Features:
    """Random features [3, 9, width] of every layer."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(3, 9, width, generator=generator).requires_grad_(requires_grad)  # noqa: E731
    every = Features()
    for layer in range(num_layers + 1):
        every.hidden_states[layer] = draw()
        every.query[layer], every.key[layer], every.value[layer] = draw(), draw(), draw()
    return every


def feature_batch() -> dict[str, Tensor]:
    """The batch of such features: row 1 has 4 real tokens."""
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    return {"attention_mask": mask}


def rows_from(position: int, rows: int, rank: int, world_size: int) -> Generator[dict[str, Tensor], None, None]:
    """Endless micro-batches: row g is a function of g alone, rank r takes every world_size-th; some rows are padded.

    Every id that 4 divides is to be predicted. Of three rows one is swapped, one is not and one is of a single text.
    """
    while True:
        numbers = range(position + rank, position + rows * world_size, world_size)
        parts = [batch(1, padding=False, seed=number) for number in numbers]
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for index, number in enumerate(numbers):
            whole["attention_mask"][index, ROW_TOKENS - number % 3 :] = 0
        whole["labels"] = whole["input_ids"].masked_fill(whole["input_ids"] % 4 > 0, -100)
        whole["draws"] = torch.stack([_draws(number) for number in numbers])
        whole["order_labels"] = torch.tensor([(0, 1, -100)[number % 3] for number in numbers])
        yield whole
        position += rows * world_size


def _draws(number: int) -> Tensor:
    return torch.rand(ROW_TOKENS, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def train(
    run: Path,
    steps: int,
    students: list[StudentConfig] | None = None,
    micro_rows: int = 4,
    schedule_steps: int = 8,
    save_every_steps: int = 4,
    zero_stage: int = 0,
    dtype: Dtype | None = None,
    rank: int = 0,
    world_size: int = 1,
    stop_requested: Callable[[], int] = lambda: 0,
    build_probe: Callable[[Any, torch.device], LiveProbe] | None = None,
    **training_changes: Any,
) -> dict[str, dict[str, Tensor]]:
    """A real run of `steps` steps of 8 rows; the final weights of every student, projections included."""
    device = start_distributed()
    configs = students or [student_config()]
    model = teacher_model()
    built = [build_student(config, model, seed=1) for config in configs]
    probe = build_probe(model, device) if build_probe else None  # before the teacher is cut
    teacher = Teacher(model, [student.teacher_reads for student in built], "float32", device)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    settings = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": micro_rows,
        "torch_autocast": AutocastConfig.of(dtype or ("bfloat16" if zero_stage == 1 else "float32")).model_dump(),
        "zero_optimization": {"stage": zero_stage},
    }
    deepspeed_config = DeepSpeedConfig.model_validate(settings)
    for student in built:
        student.to(device).freeze_unreached(teacher)
    engines = [
        StudentEngine(student, config, deepspeed_config, schedule_steps, world_size)
        for student, config in zip(built, configs, strict=True)
    ]
    training = TrainingConfig(
        total_steps=steps, log_every_steps=2, save_every_steps=save_every_steps, **training_changes
    )
    Trainer(
        run,
        training,
        teacher,
        engines,
        lambda position: rows_from(position, micro_rows, rank, world_size),
        rows_per_step=8,
        device=device,
        stop_requested=stop_requested,
        probe=probe,
    ).train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items()), "the teacher moved"
    return {student.name: {name: tensor.clone() for name, tensor in student.state_dict().items()} for student in built}


def spawn(function: Callable[..., None], arguments: tuple[Any, ...], num_ranks: int = 2) -> None:
    """`function(rank, *arguments)` in a process a rank, forked from one that has imported what they want.

    Each leaves at once when it is done, as the entry points do: gloo's threads may still hold Python's objects, and now
    and then abort a process that takes itself apart.
    """
    mp.start_processes(_run_and_leave, (function, arguments), num_ranks, start_method="forkserver")


def _run_and_leave(rank: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    function(rank, *arguments)
    os._exit(0)
