"""A real Slurm of one node on loopback: munged, slurmctld and slurmd of its own, in a folder of its own."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.launch.jobs import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
CONFIG = """
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthInfo=socket={folder}/munge.socket,cred_expire=8
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=1
KillWait=30
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Started when made; `stop` ends it and every job it has."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, []
        (folder / "state").mkdir(parents=True)
        (folder / "spool").mkdir()
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        text = CONFIG.format(folder=folder, controller_port=free_port(), node_port=free_port())
        (folder / "slurm.conf").write_text(text)
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        names = ("socket", "pid", "log", "seed")
        flags = [f"--{name}-file={folder}/munge.{name}" for name in names[1:]]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *flags)
        self._until(lambda: (folder / "munge.socket").exists())
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", "localhost")
        self._until(lambda: "idle" in self.ask("sinfo", "--noheader", "-o", "%t"))

    def _start(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path
        log = (self.folder / f"{program}.out").open("w")
        self.daemons.append(subprocess.Popen([path, *arguments], env=self.environment, stdout=log, stderr=log))

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints, its errors too."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        return (done.stdout + done.stderr).strip()

    def _until(self, condition, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "\n".join(path.read_text() for path in self.folder.glob("*.out"))
            time.sleep(0.1)

    def state(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def stop(self) -> None:
        """Nothing is left running."""
        self.ask("scancel", "--full", "--signal=KILL", "--user=root")
        self.ask("scancel", "--user=root")
        time.sleep(1)
        for daemon in self.daemons[::-1]:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(60)
