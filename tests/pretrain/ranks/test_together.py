"""Results and errors of one rank reach all, on the CPU even if the job runs on a device."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from pretrain.ranks import together
from tests.pretrain.tiny import spawn


def told(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    for backend, num_groups in (("gloo", 1), ("nccl", 2)):  # one more, made once
        with patch.object(together.dist, "get_backend", lambda *_, backend=backend: backend):
            check(rank)
        assert len(dist.distributed_c10d._world.pg_map) == num_groups
    (folder / f"told{rank}").touch()


def check(rank: int) -> None:
    assert together.on_rank_zero(lambda: rank + 5) == 5
    for kind in (ValueError, OSError):
        with pytest.raises(ValueError, match=r"^no room$"):
            together.on_rank_zero(lambda kind=kind: fail(kind))
    with pytest.raises(ValueError if rank else KeyError, match="a bug"):
        together.on_rank_zero(lambda: fail(KeyError, "a bug"))
    together.raise_together(None)
    with pytest.raises(ValueError, match=r"^rank 1: mine$"):
        together.raise_together("mine" if rank else None)


def fail(kind: type[Exception], message: str = "no room") -> None:
    raise kind(message)


@pytest.mark.job
def test_all_ranks_get_the_result_of_one_on_any_device(tmp_path):
    spawn(told, (tmp_path,))
    assert (tmp_path / "told0").exists() and (tmp_path / "told1").exists()
