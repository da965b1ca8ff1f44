import os, pty, signal, subprocess, sys, time, json, select
import pytest
from tests.launch.jobs import ROOT, free_port

def session(command, act, seconds=200):
    """bash with job control on a terminal of its own."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PS1": "PROMPT> ", "COLUMNS": "200"}
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    said, start = b"", time.monotonic()
    acted = False
    os.write(terminal, (" ".join(command) + "; echo CODE=$?\n").encode())
    while time.monotonic() - start < seconds:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            said += data
            for line in data.decode(errors="replace").splitlines():
                print(f"{time.monotonic()-start:7.2f} {line}")
        r = act(terminal, said, pid)
        if r == "end": break
    os.kill(pid, signal.SIGKILL)
    return said.decode(errors="replace")

@pytest.mark.parametrize("kind", ["plain", "deepspeed", "slow"])
def test_it(config_values, tmp_path, kind):
    rows = 80000 if kind == "slow" else 2000
    values = config_values | {"training": {"total_steps": 100_000, "log_every_steps": 1000, "save_every_steps": 50_000}}
    values["deepspeed"] = {"train_batch_size": rows, "train_micro_batch_size_per_gpu": 4}
    path = tmp_path / "long.json"; path.write_text(json.dumps(values))
    run = tmp_path / "run"
    if kind == "plain":
        command = [sys.executable, "launch/gd.py"]
    else:
        command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", str(free_port()), "-q", "launch/gd.py"]
    command += ["--config", str(path), "--run", str(run)]
    state = {}
    def act(terminal, said, pid):
        if "t" not in state and b"s a step" in said or (kind == "slow" and "t" not in state and b"goes on" in said or b"epoch is" in said and "t0" in state and time.monotonic()-state["t0"]>25 and "t" not in state):
            state["t"] = time.monotonic()
            print("---- Ctrl-C")
            os.write(terminal, b"\x03")
        if b"epoch is" in said and "t0" not in state: state["t0"] = time.monotonic()
        if "t" in state and b"stopped at step" in said and b"next:" in said and "e" not in state:
            state["e"] = time.monotonic()
        if "e" in state and time.monotonic() - state["e"] > 4: return "end"
        if "t" in state and time.monotonic() - state["t"] > 100: return "end"
    session(command, act)
    print(sorted(p.name for p in run.glob("checkpoints/*")))
