"""The main job under the real launcher, killed -9 at any moment: relaunched, it ends with the same weights."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch

from pretrain.training.metrics import read_metrics
from tests.launch.conftest import launch
from tests.launch.jobs import SAVE_EVERY_STEPS, Job, assert_same_end, deepspeed_command, logged_step, newest_step
from tests.processes import places_of

pytestmark = pytest.mark.job

# How what is killed is found; "all" leaves nobody who could say anything.
VICTIMS: dict[str, Callable[[Job], list[int]]] = {
    "rank 0": lambda job: job.ranks()[:1],
    "rank 1": lambda job: job.ranks()[-1:],
    "launcher": lambda job: [job.process.pid],
    "all": lambda job: job.pids(),
}
LONG = ("--set", "training.total_steps=720")  # for sixteen kills
# In the step, in the save, just before and just after the folder has its name.
MOMENTS = ("step", "save", "before rename", "after rename")


def kill(job: Job, victim: str, moment: str, draw: random.Random) -> dict[str, object] | None:
    """Kills once, after at least one new step; what was killed when, or nothing where the run was done before."""
    before, steps = newest_step(job.run), draw.randint(1, SAVE_EVERY_STEPS - 1)
    job.until(lambda: job.logs() and logged_step(job.run) > before)
    pids = VICTIMS[victim](job)
    while not has_come(job, moment, before, steps):
        if job.process.poll() is not None:
            return None
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.03) if moment in ("step", "save") else 0)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    step, seconds = logged_step(job.run), job.until_gone()
    job.process.wait(60)
    return {"killed": victim, "when": moment, "at step": step, "gone after s": f"{seconds:.1f}",
            "goes on from": newest_step(job.run)}  # fmt: skip


def has_come(job: Job, moment: str, before: int, steps: int) -> bool:
    """Whether it is the moment, of a launch that went on from step `before`; "step" is so many steps later."""
    if moment == "step":
        return logged_step(job.run) >= before + steps
    if moment == "after rename":
        return newest_step(job.run) > before
    # Not what an earlier kill left: files.json is the last thing written before the folder gets its name.
    part, partials = "files.json" if moment == "before rename" else ".", job.run.glob("checkpoints/.*.partial")
    return any((partial / part).exists() and _made(partial) > job.started for partial in partials)


def _made(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # renamed meanwhile
        return 0.0


def run_with_kills(
    config: Path, run: Path, kills: Iterable[tuple[str, str]], seed: int, *more: str
) -> list[dict[str, object]]:
    """Launches until done.json is there, each launch killed once while there are kills left."""
    draw, table = random.Random(seed), []
    for victim, moment in kills:
        with Job(deepspeed_command(), config, run, *more) as job:
            row = kill(job, victim, moment, draw)
        if row is None:
            break
        table.append(row)
    with Job(deepspeed_command(), config, run, *more) as job:
        assert job.wait() == 0, job.said
    return table


@pytest.mark.parametrize("moment", ["before rename", "step"])
def test_a_kill_of_all_ranks_changes_no_bit(disturbed_config, undisturbed, tmp_path, moment):
    """Without the seconds that a launcher takes: nobody is left who could say anything."""
    run = tmp_path / "run"
    with ExitStack() as stack:
        jobs = [stack.enter_context(Job(None, disturbed_config, run, environment=at)) for at in places_of(2)]
        jobs[0].until_step(1)
        while not has_come(jobs[0], moment, 0, SAVE_EVERY_STEPS + 5):
            assert jobs[0].process.poll() is None, jobs[0].said
        for job in jobs:
            job.process.kill()
    # On a busy machine the ranks may be a checkpoint further than where the moment was seen
    assert not (run / "done.json").exists() and (moment == "before rename" or newest_step(run) >= SAVE_EVERY_STEPS)
    done = launch("--config", str(disturbed_config), "--run", str(run), num_ranks=2)
    assert done.returncode == 0, done.stderr
    assert_same_end(run, undisturbed)


@pytest.mark.slow
def test_kills_under_the_launcher_change_no_bit(disturbed_config, undisturbed, tmp_path):
    kills = [("all", "before rename"), ("rank 1", "step"), ("launcher", "save")]
    assert len(run_with_kills(disturbed_config, tmp_path / "run", kills, seed=1)) == len(kills)
    assert_same_end(tmp_path / "run", undisturbed)


def assert_same_rows_and_losses(run: Path, other: Path) -> None:
    ours, theirs = read_metrics(run), read_metrics(other)
    assert [(line["step"], line["rows"]) for line in ours] == [(line["step"], line["rows"]) for line in theirs]
    for student in ("small", "other"):
        losses = [[line[f"{student}/loss"] for line in lines] for lines in (ours, theirs)]
        torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_one_two_one_ranks_with_kills_see_the_same_rows(disturbed_config, tmp_path):
    """Micro-batches of one row, so that only the order of sums in float32 differs."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = ["--set", "deepspeed.train_micro_batch_size_per_gpu=1", "training.total_steps=24",
               "training.save_every_steps=4"]  # fmt: skip
    with Job(deepspeed_command(1), disturbed_config, whole, *options) as job:
        assert job.wait() == 0, job.said
    for num_ranks, step in ((1, 5), (2, 13)):
        with Job(deepspeed_command(num_ranks), disturbed_config, run, *options) as job:
            job.until_step(step)
            os.kill(job.ranks()[-1], signal.SIGKILL)
            job.until_gone()
            assert newest_step(run) >= step - step % 4
    with Job(deepspeed_command(1), disturbed_config, run, *options) as job:
        assert job.wait() == 0, job.said
    assert_same_rows_and_losses(run, whole)


@pytest.fixture(scope="module")
def long_undisturbed(disturbed_config, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "long"
    with Job(deepspeed_command(), disturbed_config, run, *LONG) as job:
        assert job.wait() == 0, job.said
    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_any_number_of_kills_changes_no_bit(disturbed_config, long_undisturbed, tmp_path, seed):
    """Every victim at every moment in each of two runs, 32 kills, in an order of the seed's; prints the table."""
    kills = [(victim, moment) for victim in VICTIMS for moment in MOMENTS]
    random.Random(seed).shuffle(kills)
    table = run_with_kills(disturbed_config, tmp_path / "run", kills, seed, *LONG)
    print(*(" | ".join(map(str, [number, *row.values()])) for number, row in enumerate(table, 1)), sep="\n")
    assert len(table) == 16
    assert_same_end(tmp_path / "run", long_undisturbed)
