"""When a rank dies or hangs, the others report it in one line and exit, even without a launcher."""

import json
import os
import signal

import pytest

from tests.launch.jobs import Job
from tests.processes import places_of

pytestmark = pytest.mark.job


@pytest.fixture
def two_ranks(config_values, tmp_path):
    """Both ranks as processes started by hand, which give a lost one three seconds."""
    training = {"total_steps": 100_000, "log_every_steps": 1, "collective_timeout_seconds": 3}
    config = tmp_path / "long.json"
    deepspeed = config_values["deepspeed"] | {"torch_autocast": {"enabled": False}}
    config.write_text(json.dumps(config_values | {"training": training, "deepspeed": deepspeed}))
    jobs = [Job(None, config, tmp_path / "run", environment=place) for place in places_of(2)]
    with jobs[0], jobs[1]:
        jobs[0].until_step(3)
        yield jobs


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "the connection to another rank broke: its process or host is gone"),
        (
            signal.SIGSTOP,
            "other ranks did not answer within 3 s (training.collective_timeout_seconds): a",
        ),
    ],
)
def test_the_other_rank_leaves_in_seconds_and_says_why(two_ranks, number, reason):
    first, second = two_ranks
    os.kill(second.process.pid, number)
    assert first.process.wait(20) == 76
    assert f"[rank 0] stopped: {reason}" in first.said and first.said.count("stopped") == 1
    assert "Traceback" not in first.said
    assert " (" in first.said.partition(reason)[2] and "gloo" in first.said  # the library's own words


def test_ranks_that_were_given_different_things_are_refused_before_they_begin(config_values, tmp_path):
    (config := tmp_path / "alike.json").write_text(json.dumps(config_values))
    others = ("--set", "training.save_every_steps=2", "students.0.optimizer.lr=0.01", "corpus.rows=pairs")
    given = zip(places_of(2), ((), others), strict=True)  # pairs are counted by all ranks together
    jobs = [Job(None, config, tmp_path / "run", *set_, environment=place) for place, set_ in given]
    with jobs[0], jobs[1]:
        assert [job.process.wait(120) for job in jobs] == [2, 2]
    for rank, job in enumerate(jobs):
        wrong = "corpus.rows, students.0.optimizer.lr, training.save_every_steps"
        assert f"[rank {rank}] stopped: rank 1: differs from rank 0 in {wrong}" in job.said
    assert not (tmp_path / "run/config.json").exists()


def test_a_rank_that_never_comes_is_waited_for_no_longer(config_file, tmp_path):
    patience = ("--set", "training.collective_timeout_seconds=2")
    with Job(None, config_file, tmp_path / "run", *patience, environment=places_of(2)[0]) as job:
        assert job.process.wait(60) == 76
        assert "[rank 0] stopped: other ranks did not answer within 2 s" in job.said and "Traceback" not in job.said
