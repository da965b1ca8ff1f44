"""The real command: exit codes, a whole run, and a stop in its middle."""

import json
import signal
import time

import pytest

from launch import predict
from tests.launch.prediction.conftest import general, made  # noqa: F401  (fixtures)
from tests.processes import Script, run_script


def flags(task, output, data=None):
    return [
        "--model",
        str(task.model),
        "--task",
        str(task.task),
        "--input",
        str(data or task.data),
        "--output",
        str(output),
    ]


@pytest.mark.job
def test_a_file_is_labelled_and_refused_the_second_time(made, tmp_path):  # noqa: F811
    done = run_script("launch/predict.py", *flags(made("sentence"), tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"7 answers: {tmp_path / 'out.csv'}\n"
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith("id,label,problem\n0,")
    again = run_script("launch/predict.py", *flags(made("sentence"), tmp_path / "out.csv"))
    assert again.returncode == 2 and "error: --output" in again.stderr and "already exists" in again.stderr


@pytest.mark.job
def test_a_signal_stops_it_and_the_same_command_goes_on(made, tmp_path):  # noqa: F811
    data, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps({"sentence": f"天地{n}"}) + "\n" for n in range(40_000)))
    out, err = tmp_path / "stdout", tmp_path / "stderr"
    script = Script("launch/predict.py", flags(made("sentence"), output, data), out, err, {})
    state, end = tmp_path / ".out.jsonl.predictions/state.json", time.monotonic() + 120
    while not state.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    script.communicate(120)
    assert script.returncode == 75, err.read_text()
    kept = json.loads(state.read_text())["inputs"]
    assert 0 < kept < 40_000 and f"stopped: {kept:,} answers are kept" in err.read_text()
    done = run_script("launch/predict.py", *flags(made("sentence"), output, data))
    assert done.returncode == 0 and f"goes on after {kept:,} answers" in done.stderr
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == [*range(40_000)]


def test_the_form_is_told_by_the_suffix_or_the_flag():
    options = predict.parse_arguments(["--model", "m", "--task", "t", "--input", "i", "--output", "o.csv"])
    assert options.form is None and options.dtype == "float32" and not options.probabilities
