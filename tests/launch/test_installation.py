"""What an installed copy and foreign packages of the same names do to the commands."""

import os
import re
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement

from tests.processes import ROOT


def test_packages_of_the_same_names_elsewhere_do_not_shadow_ours(config_file, tmp_path):
    """PyPI has a `launch`, a `tasks`, a `corpus` and a `bench`; here they stand first on PYTHONPATH."""
    for name in ("launch", "tasks", "corpus", "pretrain"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("raise ImportError('not ours')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "launch/gd.py", "--config", config_file, "--run", tmp_path / "run"]
    command += ["--set", "training.total_steps=1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_commands_run_from_any_folder(tmp_path):
    for command in sorted((ROOT / "launch").glob("*.py")):
        text = command.read_text(encoding="utf-8")
        assert command.stem == "__init__" or "sys.path[0] = str(" in text, command.name
    done = subprocess.run(
        [sys.executable, ROOT / "launch/key_reference.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and done.stdout.startswith("# Configuration keys"), done.stderr


def test_pinned_versions_fit_the_package():
    """The requirements files are what tests run with; pyproject.toml what users install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(one) for one in (*project["dependencies"], *extras["dev"], *extras["export"])]
    lines = [line for name in ("", "-export") for line in (ROOT / f"requirements{name}.txt").read_text().splitlines()]
    pins = dict(re.match(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines if re.match(r"[\w-]+==", line))
    assert {one.name for one in wanted} == set(pins)
    assert [str(one) for one in wanted if not one.specifier.contains(pins[one.name])] == []
