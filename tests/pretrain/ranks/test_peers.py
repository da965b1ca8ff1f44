"""All ranks get the same numbers one step later; every group answers in time or the run ends."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from pretrain.ranks import peers
from pretrain.ranks.peers import Agreement, Heartbeat, PeerLost, explain_lost_peers, limit_collectives
from tests.pretrain.tiny import spawn, train
from tests.processes import CONTEXT


def test_a_world_of_one_agrees_with_itself_one_step_late(tmp_path):
    if not dist.is_initialized():
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    agreement = Agreement(5)
    assert [agreement.exchange([3, 1]), agreement.exchange([0, 7])] == [[0, 0], [3, 1]]
    assert agreement.settle() == [0, 7]
    assert agreement.settle() == []


def limited(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2))
    agreement = Agreement(60)
    heard = [agreement.exchange([10 * rank, step - rank]) for step in range(3)]
    assert [*heard, agreement.settle()] == [[0, 0], [10, 0], [10, 1], [10, 2]]
    train(folder / "run", 1, micro_rows=4, rank=rank, world_size=2, collective_timeout_seconds=7)
    backends = [group._get_backend(torch.device("cpu")) for group in distributed_c10d._world.pg_map]
    timeouts = [backend.options._timeout for backend in backends]
    assert len(timeouts) > 2 and set(timeouts) == {timedelta(seconds=7)}
    if rank == 0:
        limit_collectives(1)
        message = r"did not answer within 1 s \(training.collective_timeout_seconds\)"
        with pytest.raises(PeerLost, match=message), explain_lost_peers(1):
            dist.barrier()
        (folder / "heard").touch()
    else:
        while not (folder / "heard").exists():
            time.sleep(0.05)


@pytest.mark.job
def test_two_ranks_agree_and_no_group_keeps_a_time_of_its_own(tmp_path):
    spawn(limited, (tmp_path,))
    assert (tmp_path / "heard").exists()


def test_a_group_that_never_starts_is_reported_in_time(monkeypatch):
    told: list[str | None] = []
    monkeypatch.setattr(peers, "_DEVICE_EXTRA_SECONDS", 0)
    monkeypatch.setattr(peers, "limit_collectives", lambda seconds: told.append(f"waits {seconds} s"))
    monkeypatch.setattr(peers, "raise_together", told.append)
    monkeypatch.setattr(peers, "Heartbeat", lambda seconds, on_lost: "beats")
    for waits in (0, 2):
        monkeypatch.setattr(peers, "start_distributed", lambda _, waits=waits: time.sleep(waits))
        assert peers.join_ranks(1, lambda error: told.append(str(error))) == (None, "beats")
    time.sleep(1.5)
    lost = "the ranks did not join within 1 s: one of them is lost, cut off, was refused or has no working device"
    assert told == [None, "waits 1800 s", lost, None, "waits 1800 s"]


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="a bug"), explain_lost_peers(1):
        raise RuntimeError("a bug")


def beaten(rank: int, folder: Path, dies: bool) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2))

    def leave(error: PeerLost) -> None:
        (folder / "lost").write_text(str(error))
        os._exit(76)

    heartbeat = Heartbeat(60, leave)
    if dies:
        time.sleep(3 if rank else 60)  # no collective of the main thread's would notice
        os._exit(1)
    time.sleep(rank)
    heartbeat.close()
    dist.barrier()
    os._exit(0)


@pytest.mark.job
@pytest.mark.parametrize(("dies", "codes"), [(False, [0, 0]), (True, [76, 1])])
def test_a_lost_rank_is_noticed_while_the_main_thread_waits_for_something_else(tmp_path, dies, codes):
    ranks = [CONTEXT.Process(target=beaten, args=(rank, tmp_path, dies)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(100)
    assert [process.exitcode for process in ranks] == codes
    if dies:
        assert (tmp_path / "lost").read_text().startswith("the connection to another rank broke")
    else:
        assert not (tmp_path / "lost").exists()
