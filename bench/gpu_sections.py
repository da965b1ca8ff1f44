"""What bench/gpu_check.py asks of a GPU, a function each: prints lines for people, gives figures for the record.

`tiny` is a rehearsal on a CPU: the same code on small sizes.
"""

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import relations
from bench.clock import DEVICE, clock
from bench.gd_step import matrix_rate, needed_operations
from bench.gd_ways import VOCAB, build_models, set_teacher
from pretrain.models.encoder import Features
from pretrain.objectives.kernel_choice import triton_problem
from pretrain.precision import choose_dtype
from pretrain.training.captured_teacher import captured

Facts = dict[str, Any]
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 1e-2  # against float64; gradients are rounded to bfloat16


def kernels(tiny: bool) -> Facts:
    """Portable and Triton relation kernels against float64 and the straightforward way, values and times."""
    cases = [relations.Case(2, 40, 2, 32, 24)] if tiny else relations.cases(DEVICE.type)
    facts: Facts = {"ok": True, "cases": {}, "without_triton": DEVICE.type == "cpu" or triton_problem(DEVICE.type)}
    for case in cases:
        results = relations.measure(case, DEVICE.type, 2 if tiny else 5)
        print(case, *relations.describe(results), sep="\n", flush=True)
        right = all(
            one["loss error"] < LOSS_TOLERANCE and one["gradient error"] < GRADIENT_TOLERANCE
            for one in results.values()
        )
        facts["ok"] &= right
        facts["cases"][str(case)] = results
    print("values are right" if facts["ok"] else "VALUES ARE WRONG", "(loss within 1e-3, gradient 1e-2 of float64)")
    return facts


def waits(tiny: bool) -> Facts:
    """Whether a step makes the host wait for the device, and which attention kernels run, by mask."""
    set_teacher("2x192" if tiny else "24x1024")
    rows, length = (2, 16) if tiny else (8, 256)
    teacher, engines = build_models(["4l312d"], "minilm_v2", rows)
    facts: Facts = {"ok": True, "by mask": {}}
    for mask in ("full rows", "padding", "documents"):
        batch = _masked(rows, length, mask)
        for _ in range(3):  # kernels are compiled and caches filled before
            engines[0].train_micro_batch(batch, teacher(batch), 0)
        clock()
        lines = _waits_of(lambda batch=batch: engines[0].train_micro_batch(batch, teacher(batch), 0))
        activity = (
            torch.profiler.ProfilerActivity.CUDA if DEVICE.type == "cuda" else torch.profiler.ProfilerActivity.CPU
        )
        with torch.profiler.profile(activities=[activity]) as record:
            engines[0].train_micro_batch(batch, teacher(batch), 0)
            clock()
        events = record.key_averages()
        words = ("flash", "fmha", "attention", "softmax")
        names = sorted({one.key[:70] for one in events if any(word in one.key.lower() for word in words)})
        launches = sum(one.count for one in events)
        facts["by mask"][mask] = {"waits": lines, "attention": names, "launches": launches}
        facts["ok"] &= not lines
        said = "nothing" if DEVICE.type == "cuda" else "not known on a CPU"
        print(
            f"{mask}: {launches} kernels; the host waits for {'; '.join(lines) or said}; {', '.join(names)}", flush=True
        )
    return facts


def _waits_of(step: Callable[[], object]) -> list[str]:
    """Where torch says that the host waited for the device."""
    if DEVICE.type != "cuda":
        step()
        return []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename}:{one.lineno}" for one in seen if "synchroniz" in str(one.message)]


def speed(tiny: bool) -> Facts:
    """Steps of 24 x 1024 and 12 x 768 with each kernel: tokens/s, share of the matrix rate, host time, peak memory."""
    kinds = ["portable"] if DEVICE.type == "cpu" or triton_problem(DEVICE.type) else ["portable", "triton"]
    plans = [
        (teacher, student, kernel, rows, length)
        for teacher in ("24x1024", "12x768")
        for student in ("4l312d", "6l384d", "6l768d")
        for kernel in kinds
        for rows, length in ((32, 512), (128, 128))
    ]
    if tiny:
        plans = [("2x192", "4l312d", "portable", 2, 16)]
    dtype = choose_dtype("auto", DEVICE)
    rate = 1e9 if tiny else matrix_rate(dtype)
    facts: Facts = {"ok": None, "matrix rate": rate, "steps": []}
    print(f"a {dtype} product: {rate / 1e12:,.0f} TFLOP/s")
    for teacher, student, kernel, rows, length in plans:
        plan = {"teacher": teacher, "student": student, "kernel": kernel, "rows": rows, "row_tokens": length}
        try:
            plan |= _time_step(teacher, student, kernel, rows, length, 2 if tiny else 10)
        except torch.OutOfMemoryError:
            print(f"{teacher} {student} {kernel} {rows} x {length}: out of memory", flush=True)
            facts["steps"].append(plan | {"out of memory": True})
            continue
        reached = needed_operations([student], rows, length) / plan["seconds"]
        facts["steps"].append(plan | {"share of matrix rate": reached / rate})
        print(
            f"{teacher} {student} {kernel:8} {rows:3} x {length}: {plan['seconds'] * 1e3:7.1f} ms a step, "
            f"{rows * length / plan['seconds']:9,.0f} tokens/s, {reached / rate:4.0%} of the matrix rate, "
            f"teacher {plan['teacher seconds'] * 1e3:.1f} ms, host {plan['host seconds'] * 1e3:.1f} ms, "
            f"peak {plan['peak bytes'] / 1e9:.1f} GB",
            flush=True,
        )
    return facts


def _time_step(teacher_sizes: str, student: str, kernel: str, rows: int, length: int, repeats: int) -> Facts:
    set_teacher(teacher_sizes)
    _release()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    teacher, engines = build_models([student], "minilm_v2", rows, kernel)
    batch = _masked(rows, length, "full rows")

    def step() -> None:
        engines[0].train_micro_batch(batch, teacher(batch), 0)

    for _ in range(2):
        step()
    times, host = [], []
    for _ in range(repeats):
        start = clock()
        step()
        host.append(time.perf_counter() - start)  # until the launches are made: the device may still work
        times.append(clock() - start)
    teacher_seconds = _median_seconds(lambda: teacher(batch), repeats)
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0
    medians = {"seconds": statistics.median(times), "host seconds": statistics.median(host)}
    return medians | {"teacher seconds": teacher_seconds, "peak bytes": peak}


def capture(tiny: bool) -> Facts:
    """The teacher's pass as one CUDA graph against kernel by kernel: times, and how far apart the features are."""
    set_teacher("2x192" if tiny else "24x1024")
    _release()
    teacher, _ = build_models(["4l312d"], "minilm_v2", 2)
    facts: Facts = {"ok": None if DEVICE.type == "cpu" else True, "passes": []}
    for rows, length in ((2, 16),) if tiny else ((4, 128), (16, 128), (64, 128)):
        for mask in ("full rows", "padding", "documents"):
            batches = [_masked(rows, length, mask, seed) for seed in range(2)]
            ways = {"launched": teacher, "captured": captured(teacher, DEVICE)}
            found = {name: [_copied(way(batch)) for batch in batches] for name, way in ways.items()}
            pairs = zip(found["launched"], found["captured"], strict=True)
            distance = max(float((b - a).norm() / a.norm()) for a, b in pairs)
            times = {name: _median_seconds(partial(way, batches[0])) for name, way in ways.items()}
            facts["passes"].append({"rows": rows, "row_tokens": length, "mask": mask, "distance": distance} | times)
            facts["ok"] = facts["ok"] and distance < 1e-3
            said = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in times.items())
            print(f"{rows} x {length}, {mask}: {said}; features {distance:.0e} apart", flush=True)
    return facts


def _copied(features: Features) -> Tensor:
    """All queries, keys and values that were read, in one tensor of their own."""
    read = [*features.query.values(), *features.key.values(), *features.value.values()]
    return torch.cat([one.float().flatten() for one in read])


def _median_seconds(run: Callable[[], object], repeats: int = 10) -> float:
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times)


def twice(tiny: bool) -> Facts:
    """Twenty steps twice from the same start: the same bits, or how far apart they end."""
    set_teacher("2x192" if tiny else "12x768")
    rows, length, steps = (2, 16, 2) if tiny else (16, 256, 20)
    kinds = ["portable"] if DEVICE.type == "cpu" or triton_problem(DEVICE.type) else ["portable", "triton"]
    facts: Facts = {"ok": None, "distances": {}}
    for kernel in kinds:
        first, second = (_train(kernel, rows, length, steps) for _ in range(2))
        distance = float((first - second).norm() / first.norm())
        same = torch.equal(first, second)
        facts["distances"][kernel] = {"same bits": same, "relative distance": distance}
        print(f"{kernel}: {steps} steps twice: {'the same bits' if same else f'{distance:.1e} apart'}", flush=True)
    return facts


def _train(kernel: str, rows: int, length: int, steps: int) -> Tensor:
    """All weights, on the CPU, after so many steps on tokens that are a function of the step."""
    _release()
    teacher, engines = build_models(["4l312d"], "minilm_v2", rows, kernel)
    for step in range(steps):
        batch = _masked(rows, length, "full rows", step)
        engines[0].train_micro_batch(batch, teacher(batch), step)
    return torch.cat([one.detach().float().cpu().flatten() for one in engines[0].student.parameters()])


def _masked(rows: int, length: int, mask: str, seed: int = 0) -> dict[str, Tensor]:
    """Random ids [B, L]; of the last row a half is padding, or rows are documents of a third of a row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (rows, length), generator=generator)
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    if mask == "padding":
        batch["attention_mask"] = torch.ones_like(ids)
        batch["attention_mask"][-1, length // 2 :] = 0
    elif mask == "documents":
        batch["document_ids"] = (torch.arange(length) // (length // 3)).expand(rows, -1).contiguous()
    return {name: tensor.to(DEVICE) for name, tensor in batch.items()}


def _release() -> None:
    """Give back what earlier engines held: they are reference cycles."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


SECTIONS: dict[str, Callable[[bool], Facts]] = {
    "kernels": kernels,
    "waits": waits,
    "speed": speed,
    "capture": capture,
    "twice": twice,
}
