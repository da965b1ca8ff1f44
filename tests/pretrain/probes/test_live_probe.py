"""The probe of a run: the scores that finished models would get, the same for any ranks and after a resume, and not one
bit of the training changed by it."""

import math
import os
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pretrain.models.encoder import Encoder, Reads
from pretrain.precision import Dtype
from pretrain.probes.heldout import HeldoutRows, heldout_relation_losses
from pretrain.probes.live_probe import LabelledTexts, LiveProbe
from pretrain.probes.vectors import mean_pooled, nearest_neighbour_accuracy
from pretrain.students.student import build_student
from pretrain.training.metrics import read_metrics
from tests.pretrain.tiny import VOCAB, batch, spawn, student_config, teacher_model, train

NOISY = student_config("one", dropout_prob=0.2)
TWO = [NOISY, student_config("two", num_layers=3)]
HELDOUT = [batch(seed=seed) for seed in (91, 92, 93)]
SCORES = ("neighbour_accuracy", "heldout_relation_loss")


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a character."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *(chr(0x4E00 + i) for i in range(2, VOCAB))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def texts(num_texts: int, seed: int) -> tuple[list[str], list[int]]:
    """Of three classes, told by which third of the vocabulary half of the characters come from."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (num_texts,), generator=generator).tolist()
    lengths = torch.randint(1, 15, (num_texts,), generator=generator).tolist()
    drawn = [torch.randint(0, 48, (length,), generator=generator) for length in lengths]
    ids = [torch.where(one % 2 > 0, one, one % 16 + 16 * label) for one, label in zip(drawn, labels, strict=True)]
    return ["".join(chr(0x4E02 + i) for i in one.tolist()) for one in ids], labels


TRAIN, DEV = texts(150, 1), texts(90, 2)


def build(
    model: Any, device: torch.device, rank: int = 0, world_size: int = 1, every_steps: int = 4, dtype: Dtype = "float32"
) -> LiveProbe:
    reader = Encoder(model, Reads())
    labelled = LabelledTexts(TRAIN, DEV, tokenizer(), 10, device, rank, world_size)
    heldout = HeldoutRows(HELDOUT, reader, [12, 12], device, dtype, rank, world_size)
    reader.release()
    return LiveProbe(every_steps, device, dtype, labelled, heldout)


def scores(run: Path) -> dict[float, dict[str, float]]:
    """What the probe wrote, by step."""
    found = {
        line["step"]: {name: value for name, value in line.items() if "/probe/" in name} for line in read_metrics(run)
    }
    return {step: values for step, values in found.items() if values}


def assert_same(first: dict[str, dict[str, torch.Tensor]], second: dict[str, dict[str, torch.Tensor]]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name][key], second[name][key]) for name in first for key in first[name])


@pytest.mark.parametrize("zero_stage", [0, 1])  # 1 runs in bfloat16
def test_it_changes_no_bit_of_the_training_dropout_on(tmp_path, zero_stage):
    every_step = partial(build, every_steps=1, dtype="bfloat16" if zero_stage == 1 else "float32")
    with_probe = train(tmp_path / "with", 4, TWO, zero_stage=zero_stage, build_probe=every_step)
    assert_same(with_probe, train(tmp_path / "without", 4, TWO, zero_stage=zero_stage))
    found = scores(tmp_path / "with")
    assert list(found) == list(range(5)) and not scores(tmp_path / "without")
    names = {f"{student}/probe/{name}" for student in ("one", "two") for name in SCORES}
    assert all(set(values) == names for values in found.values())
    whole, plain = ({line["step"]: line for line in read_metrics(tmp_path / name)} for name in ("with", "without"))
    assert "one/loss" not in whole[0] and plain[4]["one/learning_rate"] == whole[4]["one/learning_rate"]


def test_resumed_equals_uninterrupted_in_scores_too(tmp_path):
    train(tmp_path / "whole", 8, [NOISY], build_probe=build)
    train(tmp_path / "parts", 4, [NOISY], build_probe=build)
    train(tmp_path / "parts", 8, [NOISY], build_probe=build)
    timeless = [[{k: v for k, v in line.items() if "second" not in k} for line in read_metrics(tmp_path / name)]
                for name in ("whole", "parts")]  # fmt: skip
    assert timeless[0] == timeless[1]
    assert list(scores(tmp_path / "parts")) == [0, 4, 8]


def test_scores_are_those_of_the_finished_student(tmp_path):
    ends = train(tmp_path, 6, [student_config("one")], build_probe=build)
    student = build_student(student_config("one"), teacher_model(), seed=1)
    start, found = student.encoder.model, scores(tmp_path)
    assert list(found) == [0, 4, 6]  # the start, every fourth, the last
    for step in (0, 6):
        if step:
            student.load_state_dict(ends["one"])
        sides = [mean_pooled(start, tokenizer(), side[0], max_tokens=10, rows_per_batch=7) for side in (TRAIN, DEV)]
        accuracy, _ = nearest_neighbour_accuracy(sides[0], TRAIN[1], sides[1], DEV[1])
        # A vector depends on its batch by rounding alone, which may move a vote that is a tie.
        assert found[step]["one/probe/neighbour_accuracy"] == pytest.approx(accuracy, abs=1.5 / len(DEV[1]))
        exact = {
            "one/probe/heldout_relation_loss": heldout_relation_losses(teacher_model(), {"s": start}, HELDOUT)["s"]
        }
        assert found[step]["one/probe/heldout_relation_loss"] == pytest.approx(*exact.values(), rel=2e-2)  # bfloat16
    assert found[6] != found[0]


def test_the_teacher_is_left_as_it_was_and_is_its_own_best_student():
    model = teacher_model()
    probe = build(model, torch.device("cpu"))
    hooks = [hook for module in model.modules() for hook in (module._forward_hooks, module._forward_pre_hooks)]
    assert not any(hooks)
    weights = teacher_model().state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    losses = probe.heldout.losses(Encoder(model, Reads()))
    assert probe.heldout.mean(losses) == pytest.approx(0, abs=1e-6) and probe.heldout.num_relation_heads == 12


def run_rank(rank: int, folder: Path, world_size: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    torch.set_num_threads(1)
    sys.stderr = (folder / f"stderr_{rank}").open("w", buffering=1)  # it leaves without closing it
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world_size, timeout=timedelta(minutes=2)
    )
    share = partial(build, rank=rank, world_size=world_size)
    ranks = {"rank": rank, "world_size": world_size}
    train(folder / "two", 8, [NOISY], 4, build_probe=share, **ranks)
    asked = iter([0] * 4 + [15] * 9 if rank else [0] * 13)
    ranks |= {"stop_requested": lambda: next(asked), "save_every_steps": 8}
    train(folder / "stopped", 8, [NOISY], 4, build_probe=partial(share, every_steps=1), **ranks)
    broken = build(teacher_model(), torch.device("cpu"), rank, world_size)
    if rank:  # one of them cannot: both go on
        broken.texts.vectors = None
    values = broken.measure(7, [build_student(NOISY, teacher_model(), seed=1)])
    assert set(values) == {"one/probe/heldout_relation_loss", "probe_seconds"}
    dist.destroy_process_group()


@pytest.mark.job
def test_ranks_share_the_work_and_give_the_scores_of_one(tmp_path):
    torch.set_num_threads(1)
    spawn(run_rank, (tmp_path, 2))
    train(tmp_path / "one", 8, [NOISY], micro_rows=8, build_probe=build)
    ours, theirs = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert ours[0] == theirs[0]  # the same weights, bit for bit
    assert list(ours) == list(theirs) == [0, 4, 8]
    for step in (4, 8):
        assert ours[step]["one/probe/heldout_relation_loss"] == pytest.approx(
            theirs[step]["one/probe/heldout_relation_loss"], rel=5e-2
        )
    # Rank 1 was asked while both were busy with the probe of step 1: both stop there, nothing is lost.
    assert [path.name for path in (tmp_path / "stopped/checkpoints").glob("step_*")] == ["step_1"]
    assert list(scores(tmp_path / "stopped")) == [0, 1]
    assert "step 7: one: neighbour_accuracy is not finite; left out" in (tmp_path / "stderr_0").read_text()
    assert "the probe failed: TypeError" in (tmp_path / "stderr_1").read_text()


def failing(model: Any, device: torch.device) -> LiveProbe:
    """Relations cannot be had; vectors are not finite."""
    probe = build(model, device)

    def raise_error(*_: Any) -> None:
        raise MemoryError("no room")

    probe.heldout.losses = raise_error
    probe.texts.vectors = lambda encoder: torch.full((240, 12), math.nan)
    return probe


def test_a_failing_probe_causes_a_warning_and_ends_nothing(tmp_path):
    with pytest.warns(UserWarning) as caught:
        ended = train(tmp_path / "with", 4, [NOISY], build_probe=failing)
    said = {str(one.message) for one in caught}
    assert {"the probe failed: MemoryError: no room", "step 4: one: neighbour_accuracy is not finite; left out"} <= said
    assert_same(ended, train(tmp_path / "without", 4, [NOISY]))
    assert not scores(tmp_path / "with") and [line["step"] for line in read_metrics(tmp_path / "with")] == [0, 2, 4]


def slow(model: Any, device: torch.device) -> LiveProbe:
    probe = build(model, device, every_steps=3)
    measure = probe.texts.vectors

    def take_time(encoder: Encoder) -> torch.Tensor:
        time.sleep(1.2)
        return measure(encoder)

    probe.texts.vectors = take_time
    return probe


def test_its_time_is_neither_a_slow_step_nor_training_time(tmp_path, recwarn):
    train(tmp_path, 9, [NOISY], build_probe=slow)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if line.get("probe_seconds", 0) > 1.2] == [0, 3, 6, 9]
    assert lines[-1]["seconds"] < sum(line.get("probe_seconds", 0) for line in lines)
    assert min(line["tokens_per_second"] for line in lines[1:]) > 8 * 12 / 1.2
    assert not [one for one in recwarn if "took" in str(one.message)]
