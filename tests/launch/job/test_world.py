"""Every launcher's variables give the same world; incomplete or contradictory ones are errors."""

import pytest

from launch.job.world import World, first_host, read_world

GENERIC = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
OPEN_MPI = {f"OMPI_COMM_WORLD_{name}": value for name, value in
            {"RANK": "1", "LOCAL_RANK": "1", "SIZE": "2", "LOCAL_SIZE": "2"}.items()}  # fmt: skip
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "2",
         "SLURM_JOB_NODELIST": "node[07-08]"}  # fmt: skip


def test_without_a_launcher_the_world_is_one():
    assert read_world({}) == World()
    assert read_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == World()  # a batch script that no srun started


def test_each_launcher_is_understood():
    assert read_world(GENERIC) == World(3, 1, 4, "node1", 29500, 0)
    assert read_world(GENERIC | {"TORCHELASTIC_RUN_ID": "x"}).launcher_generations == 1
    assert read_world(GENERIC | {"CROSS_RANK": "1"}).launcher_generations == 2
    one_host = read_world(OPEN_MPI | {"PMIX_NAMESPACE": "123"})
    assert one_host == World(1, 1, 2, "127.0.0.1", 20123, 1)
    hosts = OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
    assert read_world(hosts) == World(1, 1, 2, "node1", 1234, 1)
    assert read_world(SLURM) == World(3, 1, 4, "node07", 20172, 1)
    assert read_world(SLURM | {"MASTER_ADDR": "10.0.0.1"}).address == "10.0.0.1"
    shell = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert read_world(SLURM | shell).size == 1, "salloc's own shell"


def test_the_innermost_launcher_counts():
    inside = GENERIC | {"WORLD_SIZE": "8"} | SLURM
    assert read_world(inside | {"TORCHELASTIC_RUN_ID": "x"}).size == 8
    assert read_world(inside | {"CROSS_RANK": "0"}).rank == 3
    assert read_world(OPEN_MPI | SLURM).size == 2


@pytest.mark.parametrize("hosts", ["n7", "n7,n9", "n[7-9]", "n[7,9]", "n[7-9],m1"])
def test_the_first_host_of_a_list(hosts):
    assert first_host(hosts) == "n7"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "incomplete: LOCAL_RANK is not set"),
        (GENERIC | {"MASTER_ADDR": ""}, "incomplete: MASTER_ADDR is not set"),
        (GENERIC | {"RANK": "first"}, "RANK='first' is not a number"),
        (GENERIC | {"RANK": "4"}, r"is contradictory: rank 4 \(local rank 1\) of 4"),
        (GENERIC | OPEN_MPI, "RANK=3 of WORLD_SIZE=4 contradicts OMPI_COMM_WORLD_RANK=1 of OMPI_COMM_WORLD_SIZE=2"),
        (GENERIC | SLURM | {"SLURM_PROCID": "2"}, "contradicts SLURM_PROCID=2 of SLURM_NTASKS=4; unset RANK and"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "several hosts under mpirun: give the host of rank 0"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "incomplete: OMPI_COMM_WORLD_LOCAL_RANK is not set"),
        (SLURM | {"SLURM_JOB_NODELIST": ""}, "incomplete: SLURM_JOB_NODELIST is not set"),
        (
            SLURM | {"SLURM_JOB_NODELIST": "rack[1-2]n[1-4]"},
            r"find the first host in 'rack\[1-2\]n\[1-4\]'; set",
        ),
    ],
)
def test_incomplete_or_contradictory_variables_are_errors(environment, message):
    with pytest.raises(ValueError, match=message):
        read_world(environment)
