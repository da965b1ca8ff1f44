"""Two hosts on one machine: namespaces of processes, network, mounts and host names, joined by a cable.

The machine's own network is not touched and nothing outlives a test: a host ends, with all that runs on it, when its
first process does, and that one reads a pipe which closes when the tests end, however they end.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.launch.jobs import ROOT

ADDRESSES = {"host0": "10.77.0.1", "host1": "10.77.0.2"}
_NOBODY = "02:00:00:00:00:77"  # frames to it go over the cable and no further
_BEGIN = """
set -e
mount -t tmpfs none /run
mount --bind "$2/hosts" /etc/hosts
mkdir -p /etc/ssh/ssh_config.d
mount --bind "$2/ssh_config.d" /etc/ssh/ssh_config.d
hostname "$1"
ip link set lo up
echo ready
read -r _  # until the pipe closes; bash, not sh: it takes in the orphans of the host as they die
"""
_SSH = """Host host0 host1
    IdentityFile {folder}/key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""
_SSHD = """AuthorizedKeysFile {folder}/key.pub
HostKey {folder}/key
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""


class Host:
    """One host; `enter` is what a command begins with to run there, in the repository's root."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.address = name, ADDRESSES[name]
        self._first = subprocess.Popen(
            [
                "unshare",
                "--pid",
                "--fork",
                "--mount-proc",
                "--net",
                "--uts",
                "bash",
                "-c",
                _BEGIN,
                "bash",
                name,
                folder,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._first.stdout and self._first.stderr
        if self._first.stdout.readline() != "ready\n":
            raise OSError(self._first.stderr.read().strip())
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        self.pid = int(children.read_text())
        spaces = ["--pid", "--net", "--uts", "--mount"]
        self.enter = ["nsenter", "--target", str(self.pid), *spaces, "env", f"--chdir={ROOT}"]

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True, capture_output=True, timeout=60)

    def processes(self) -> dict[int, str]:
        """Command by process id of all that runs here, the first process and sshd aside."""
        found, ours = {}, Path(f"/proc/{self.pid}/ns/pid").readlink()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (folder / "ns/pid").readlink() == ours and command and not command.startswith("sshd"):
                    found[int(folder.name)] = command
        found.pop(self.pid)
        return found

    def start_sshd(self, folder: Path) -> None:
        """With the throwaway key in `folder`."""
        self.run("mkdir", "-p", "/run/sshd")
        self.run("/usr/sbin/sshd", "-f", str(folder / "sshd_config"))

    def kill_all(self) -> None:
        """SIGKILL to all that runs here; the kernel lives on and closes its connections."""
        subprocess.run([*self.enter, "sh", "-c", "kill -9 -1"], check=False, capture_output=True, timeout=60)

    def close(self) -> None:
        assert self._first.stdin
        self._first.stdin.close()
        self._first.wait(30)


class TwoHosts:
    """host0 and host1 with eth0 at each end of a cable; the disk is shared, names are known, ssh needs no password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in ADDRESSES))
        (folder / "ssh_config.d").mkdir()
        (folder / "ssh_config.d" / "hosts.conf").write_text(_SSH.format(folder=folder))
        (folder / "sshd_config").write_text(_SSHD.format(folder=folder))
        programs = ("pdsh", "ssh", "ssh-keygen", "/usr/sbin/sshd")
        self.has_ssh = all(shutil.which(program) for program in programs)
        if self.has_ssh:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
        self.hosts: list[Host] = []
        try:
            for name in ADDRESSES:
                self.hosts.append(Host(name, folder))
            self._lay_cable()
            self.renew()
        except BaseException:
            self.close()
            raise

    def _lay_cable(self) -> None:
        ends = [["netns", str(host.pid)] for host in self.hosts]
        add = ["ip", "link", "add", "eth0", *ends[0], "type", "veth", "peer", "name", "eth0", *ends[1]]
        done = subprocess.run(add, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise OSError(done.stderr.strip())
        for host in self.hosts:
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")

    def cut(self) -> None:
        """From now on nothing arrives, in either direction, and nobody is told."""
        for host, other in zip(self.hosts, reversed(self.hosts), strict=True):
            host.run("ip", "neighbour", "replace", other.address, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")

    def renew(self) -> None:
        """The cable whole, and nothing running on the hosts but sshd."""
        for host in self.hosts:
            host.kill_all()
            host.run("ip", "neighbour", "flush", "dev", "eth0", "nud", "all")
            if self.has_ssh:
                host.start_sshd(self.folder)

    def close(self) -> None:
        for host in self.hosts:
            host.close()


@contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Skips the test where the machine does not allow them."""
    missing = [tool for tool in ("unshare", "nsenter", "ip") if not shutil.which(tool)]
    if missing or os.geteuid():
        pytest.skip(f"two hosts need root and namespaces: {', '.join(missing) or 'not root'}")
    try:
        hosts = TwoHosts(folder)
    except OSError as error:
        pytest.skip(f"two hosts need namespaces, which are not allowed here: {error}")
    try:
        yield hosts
    finally:
        hosts.close()
