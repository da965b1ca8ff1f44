"""The rank of this process and the number of ranks, from the environment that its launcher sets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

GENERIC = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
_FIRST_PORT, _NUM_PORTS = 20000, 10000


@dataclass(frozen=True)
class World:
    """A process's rank among `size` ranks, the address where rank 0 listens, and its launcher.

    `launcher_generations` is the number of the process's ancestors that belong to the launcher.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    address: str = ""  # empty: the only rank
    port: int = 0
    launcher_generations: int = 0

    def export(self) -> None:
        """Set the environment variables that torch.distributed and DeepSpeed read."""
        if self.address:
            values = (self.rank, self.local_rank, self.size, self.address, self.port)
            os.environ.update(zip(GENERIC, map(str, values), strict=True))


def read_world(environment: Mapping[str, str]) -> World:
    """Return the world described by deepspeed, torchrun, mpirun (Open MPI) or Slurm's srun, the innermost of them.

    Without a launcher it is a single rank. Raise ValueError if variables are missing, not numbers, or contradictory.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        world = _generic(environment)
    elif any(name in environment for name in _OPEN_MPI):
        world = _open_mpi(environment)
    elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        world = _slurm(environment)
    else:
        return World()
    if not (0 <= world.rank < world.size and 0 <= world.local_rank <= world.rank):
        raise ValueError(
            "the launcher's environment is contradictory: "
            f"rank {world.rank} (local rank {world.local_rank}) of {world.size}"
        )
    return world


def _generic(environment: Mapping[str, str]) -> World:
    rank, local_rank, size = _numbers(environment, ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    port = _port(environment, "")
    by_deepspeed, by_torchrun = "CROSS_RANK" in environment, "TORCHELASTIC_RUN_ID" in environment
    if not by_deepspeed and not by_torchrun:
        _check_against(environment, rank, size, _OPEN_MPI)
        if "SLURM_STEP_ID" in environment:
            _check_against(environment, rank, size, _SLURM)
    generations = 2 if by_deepspeed else 1 if by_torchrun else 0
    return World(rank, local_rank, size, _text(environment, "MASTER_ADDR"), port, generations)


def _check_against(environment: Mapping[str, str], rank: int, size: int, names: tuple[str, ...]) -> None:
    """Raise ValueError if RANK and WORLD_SIZE, perhaps exported for all ranks, contradict the launcher's variables."""
    if all(name in environment for name in names):
        other_rank, _, other_size = _numbers(environment, names)
        if (rank, size) != (other_rank, other_size):
            raise ValueError(
                f"RANK={rank} of WORLD_SIZE={size} contradicts {names[0]}={other_rank} of {names[2]}={other_size}; "
                "unset RANK and WORLD_SIZE, or start one launcher only"
            )


def _open_mpi(environment: Mapping[str, str]) -> World:
    rank, local_rank, size = _numbers(environment, _OPEN_MPI)
    (local_size,) = _numbers(environment, ("OMPI_COMM_WORLD_LOCAL_SIZE",))
    if "MASTER_ADDR" not in environment and local_size != size:
        raise ValueError("several hosts under mpirun: give the host of rank 0 with -x MASTER_ADDR=host")
    address = environment.get("MASTER_ADDR", "127.0.0.1")
    job = environment.get("PMIX_NAMESPACE", environment.get("OMPI_MCA_ess_base_jobid", "0"))
    return World(rank, local_rank, size, address, _port(environment, job), 1)


def _slurm(environment: Mapping[str, str]) -> World:
    rank, local_rank, size = _numbers(environment, _SLURM)
    # The size of the step; in the shell of salloc, a step of one task, SLURM_NTASKS is that of the whole allocation.
    size = int(environment.get("SLURM_STEP_NUM_TASKS", size))
    address = environment.get("MASTER_ADDR") or first_host(
        environment.get("SLURM_STEP_NODELIST") or _text(environment, "SLURM_JOB_NODELIST")
    )
    job = f"{_text(environment, 'SLURM_JOB_ID')}{environment['SLURM_STEP_ID']}"
    return World(rank, local_rank, size, address, _port(environment, job), 1)


def first_host(hosts: str) -> str:
    """Return the first host of Slurm's host list: node003 for `node[003-007,9],login`. Raise ValueError if unclear."""
    prefix, bracket, rest = hosts.partition("[")
    if not bracket or "," in prefix:
        return prefix.split(",")[0]
    ranges, closing, after = rest.partition("]")
    first = ranges.split(",")[0].split("-")[0]
    suffix = after.split(",")[0]
    if not closing or not first or "[" in suffix:
        raise ValueError(f"cannot find the first host in {hosts!r}; set MASTER_ADDR")
    return prefix + first + suffix


def _port(environment: Mapping[str, str], job: str) -> int:
    """Return a port that is the same on every rank of a job, and most likely differs from other jobs' on the host."""
    if "MASTER_PORT" in environment or not job:
        (port,) = _numbers(environment, ("MASTER_PORT",))
        if not 0 < port < 1 << 16:
            raise ValueError(f"MASTER_PORT={port} is no port: give a number from 1024 to 65535")
        return port
    digits = "".join(filter(str.isdigit, job)) or "0"
    return _FIRST_PORT + int(digits) % _NUM_PORTS


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise ValueError(f"the launcher's environment is incomplete: {name} is not set")
    return environment[name]


def _numbers(environment: Mapping[str, str], names: tuple[str, ...]) -> list[int]:
    for name in names:
        if not _text(environment, name).isdigit():
            raise ValueError(f"the launcher's environment is invalid: {name}={environment[name]!r} is not a number")
    return [int(environment[name]) for name in names]
