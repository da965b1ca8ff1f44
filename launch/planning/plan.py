"""The table of `gd.py --plan`: what a run will take, cost and be worth. Each figure says what it rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from corpus.rows.stream import RowStream
from corpus.shards.manifest import Manifest, load_manifest
from launch.command_line.config_file import prefix_errors
from launch.command_line.wording import duration
from launch.distillation.config import RunConfig
from launch.planning.cluster import Hardware, plan_step, sum_gradients
from launch.planning.expectation import Expectation, expect, read_laws
from launch.planning.measurement import StepTime, time_step
from launch.planning.work import RunWork, Vocabulary, read_work
from pretrain.device import chosen_device, device_name
from pretrain.precision import Dtype, WantedDtype, choose_dtype

_NUM_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_LEFT_OUT = "without start, probes and checkpoints"


@dataclass(frozen=True)
class PlanOptions:
    """What is asked beside the configuration.

    Attributes:
        gpus: numbers of ranks, each with a time and a price.
        tflops: what large products reach on a GPU; None to time a step on this machine.
        gbit: of a network card, one a GPU.
        price: of a rank's hour, in any currency.
        law: a law's file; None for those of configs/laws.
    """

    gpus: Sequence[int] = (1,)
    tflops: float | None = None
    gbit: float = Hardware.gbit
    price: float | None = None
    law: Path | None = None


class Line(NamedTuple):
    """A line of the table."""

    what: str
    value: str
    rests_on: str


def describe_plan(config: RunConfig, options: PlanOptions) -> str:
    """Return the table as text. No weights are read but a teacher's that a law may be for.

    Raise ValueError for whatever is wrong with the configuration, its teacher, the law or the number of ranks.
    """
    laws = read_laws(options.law)
    with prefix_errors("--gpus"):
        for gpus in options.gpus:
            config.deepspeed.accumulation_steps(gpus)
    manifest, problem = _find_corpus(config)
    vocabulary = (manifest.tokenizer.vocab_size, manifest.tokenizer.pad_token_id) if manifest else None
    work = read_work(config, vocabulary)
    tokens = config.training.total_steps * config.deepspeed.train_batch_size * config.corpus.row_tokens
    lines = [
        *_describe_models(config, work),
        *_describe_length(config, tokens, manifest, problem),
        *_describe_costs(config, work, tokens, options, vocabulary),
    ]
    for one in expect(config, work.students, tokens, laws, manifest):
        lines += _describe_expectation(one)
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(f"{what:<{widths[0]}}  {value:<{widths[1]}}  {basis}".rstrip() for what, value, basis in lines)


def _find_corpus(config: RunConfig) -> tuple[Manifest | None, str]:
    """Return the manifest, or None and why: a plan may be made before the corpus is."""
    try:
        return load_manifest(config.corpus.manifest), ""
    except ValueError as error:
        return None, " ".join(str(error).split())


def _describe_models(config: RunConfig, work: RunWork) -> Iterator[Line]:
    for one in work.students:
        sizes = f"{one.cost.num_layers} x {one.cost.hidden_size}, feed-forward {one.config.intermediate_size:,}"
        parameters = f"{_short(one.cost.parameters)} parameters, {_short(one.cost.in_layers)} in layers"
        yield Line(one.config.name, f"{sizes}: {parameters}", "computed")
    if work.teacher and config.teacher:
        read = f"read up to layer {work.teacher_reads.num_layers} of {work.teacher.num_layers}"
        yield Line("teacher", f"{config.teacher.path}, {work.teacher.num_layers} x {work.teacher.hidden_size}", read)


def _describe_length(config: RunConfig, tokens: int, manifest: Manifest | None, problem: str) -> Iterator[Line]:
    steps, rows = config.training.total_steps, config.deepspeed.train_batch_size
    length = f"{steps:,} steps of {rows:,} rows of {config.corpus.row_tokens}"
    padding = "" if config.corpus.rows == "packed" else ", padding included"
    yield Line("tokens", f"{length}: {_short(tokens)}", f"configured{padding}")
    if manifest is None:
        yield Line("epochs", "not known", problem)
    elif config.corpus.rows == "packed":
        corpus = config.corpus
        apart = corpus.attend_within_documents
        stream = RowStream(manifest, corpus.row_tokens, corpus.seed, corpus.weights, documents_apart=apart)
        epochs = steps * rows / stream.rows_per_epoch
        yield Line("epochs", f"{epochs:.3g}", f"computed: the corpus has {stream.rows_per_epoch:,} rows an epoch")
    else:
        yield Line("epochs", "not known", f"rows of {config.corpus.rows} are counted when the run starts")


def _describe_costs(
    config: RunConfig, work: RunWork, tokens: int, options: PlanOptions, vocabulary: Vocabulary | None
) -> Iterator[Line]:
    of_teacher, of_students = work.work.teacher_operations, sum(one.work.operations for one in work.students)
    parts = f"teacher {_short(of_teacher * tokens)}, students {_short(of_students * tokens)}"
    yield Line("operations", f"{_short((of_teacher + of_students) * tokens)}: {parts}", "computed")
    device = chosen_device()
    measured = None if options.tflops else time_step(config, device, vocabulary)
    for gpus in options.gpus:
        ranks, rows = "1 rank" if gpus == 1 else f"{gpus:,} ranks", config.deepspeed.micro_rows(gpus)
        memory, basis = _memory(config, work, gpus, device, options), f"computed, roughly: {rows:,} rows at once"
        yield Line(f"memory, {ranks}", f"{memory / 1e9:.2g} GB", f"{basis}; libraries come on top")
        hours = config.training.total_steps * _step_seconds(config, work, gpus, options, measured) / 3600
        yield Line(f"time, {ranks}", duration(3600 * hours), _of_time(gpus, options, measured, device))
        if options.price is not None:
            rank_hours = hours * gpus
            cost = f"{rank_hours * options.price:,.2f}"
            yield Line(f"price, {ranks}", cost, f"{rank_hours:.3g} rank-hours at {options.price:g}")


def _memory(config: RunConfig, work: RunWork, gpus: int, device: torch.device, options: PlanOptions) -> float:
    """Bytes of a rank; a GPU of which only the rate is given computes in bfloat16 where types are "auto"."""

    def num_bytes(wanted: WantedDtype) -> int:
        return _NUM_BYTES["bfloat16" if options.tflops and wanted == "auto" else choose_dtype(wanted, device)]

    teacher = num_bytes(config.teacher.dtype) if config.teacher else 0
    students = num_bytes(config.deepspeed.torch_autocast.wanted)
    shards = gpus if config.deepspeed.zero_optimization.stage else 1
    return work.memory_bytes(config.deepspeed.micro_rows(gpus), teacher, students, shards)


def _step_seconds(
    config: RunConfig, work: RunWork, gpus: int, options: PlanOptions, measured: StepTime | None
) -> float:
    rows, times = config.deepspeed.micro_rows(gpus), config.deepspeed.accumulation_steps(gpus)
    hardware = Hardware(gbit=options.gbit, tflops=options.tflops or Hardware.tflops)
    if measured is None:
        return plan_step(hardware, gpus, work.work, config.corpus.row_tokens, rows, times).seconds
    return measured.seconds(rows * times) + sum_gradients(hardware, gpus, work.work)


def _of_time(gpus: int, options: PlanOptions, measured: StepTime | None, device: torch.device) -> str:
    if measured is None:
        basis = f"assumed: {options.tflops:g} TFLOP/s in large products; shares of it as in docs/cluster.md"
    else:
        basis = f"measured: {measured.rows} rows on {device_name(device)}"
    network = f", sums over {options.gbit:g} Gbit/s a rank assumed" if gpus > 1 else ""
    return f"{basis}{network}; {_LEFT_OUT}"


def _describe_expectation(one: Expectation) -> Iterator[Line]:
    if one.loss is None:
        yield Line(f"{one.student}: held-out loss", "no prediction", one.rests_on)
        return
    yield Line(f"{one.student}: held-out loss", f"{one.loss.value:.3f} ± {one.loss.error:.3f}", one.rests_on)
    if one.of_score:
        kept = one.kept and f"{100 * one.kept.value:.0f} ± {100 * one.kept.error:.0f} % of the teacher's"
        yield Line(f"{one.student}: kept score", kept or "no prediction", one.of_score)


def _short(number: float) -> str:
    """Return a number with three digits: `40,960`, `1.23M`, `13.1B`, `4.50e+15`."""
    if number >= 1e12:
        return f"{number:.2e}"
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}"
