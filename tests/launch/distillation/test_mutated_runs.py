"""Mutated run configs, --set words and files of run folders: one error that names the file, or something sound.

Nothing seals these files, so another legal value is harmless, where a changed manifest never is.
"""

import json
import math
import random
import warnings
from collections import Counter
from pathlib import Path

import pytest

from launch.distillation.config import read_run_config
from launch.publishing.model_card import Measured, model_card
from launch.publishing.student_folder import read_record
from launch.reports.run import read_run, summarise
from pretrain.checkpoints.checkpoint import TrainingState
from pretrain.models.shape import EncoderShape
from tests.mutations import JSON_MUTATIONS, NUMBERS, TYPES, WORDS, limited_memory, limited_time

CONFIGS = Path(__file__).parents[3] / "configs"
TEACHER = EncoderShape("bert", 24, 1024, 16, 4096, 21128, 512, 2)
TEACHER_FACTS = {"num_layers": 24, "hidden_size": 1024, "num_parameters": 325_000_000}
MEASURED = Measured("bert", 11e6, 5e6, 45.0, 4.0, 300.0, 64, "a processor")
Outcomes = Counter[tuple[str, str, str]]  # by what was mutated, how, and what came of it


def check_refusal(error: ValueError, *names: str) -> str:
    assert any(name in str(error) for name in names), f"names no file and no key: {str(error)[:500]}"
    assert len(str(error)) < 100_000, "a message is to be read"
    return "refused"


def check_config(path: Path, overrides: list[str]) -> str:
    """Refused naming the file or the override, or a config of numbers that are numbers, which then fits or does not."""
    try:
        with limited_time(), limited_memory():
            config = read_run_config(path, overrides)
    except ValueError as error:
        return check_refusal(error, path.name, "--set")
    json.dumps(config.model_dump(mode="json"), allow_nan=False)
    try:
        with limited_time(), limited_memory():
            config.check(TEACHER if config.teacher else None)
    except ValueError as error:
        return check_refusal(error, "students.", "corpus.", "deepspeed.", "probe.")
    return "harmless"


def check_run(folder: Path, name: str) -> str:
    """What reports and cards read of a run, together."""
    try:
        with limited_time(), limited_memory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = read_run(folder)
            for student in run.students:
                for term in run.loss_terms(student):
                    steps, values = run.series(f"{student}/{term}")
                    assert all(map(math.isfinite, (*steps, *values)))
            summarise(run, TEACHER_FACTS)
            record = read_record(folder, "4l312d", folder / "checkpoints/step_40")
            assert model_card("4l312d", record, MEASURED, "4l312d")
    except ValueError as error:
        return check_refusal(error, name)
    return "harmless"


@pytest.fixture
def run(tmp_path) -> Path:
    """The files of a run folder as the main job writes them."""
    folder = tmp_path / "run"
    (folder / "checkpoints/step_40").mkdir(parents=True)
    config = read_run_config(CONFIGS / "4l312d.json")
    (folder / "config.json").write_text(config.model_dump_json(indent=2))
    sources = [{"name": "wiki", "licence": "CC-BY-SA"}, {"name": "news", "licence": "not stated"}]
    facts = {
        "corpus": {"fingerprint": "f0", "tokens": 1000, "documents": 10, "sources": sources},
        "teacher": {"path": "some/teacher", "fingerprint": "f1"},
        "unreached_parameters": {"4l312d": ["pooler.dense.weight"]},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    values = {"4l312d/loss": 2.5, "4l312d/query": 1.0, "4l312d/learning_rate": 1e-4, "tokens_per_second": 900.0}
    values |= {"4l312d/probe/neighbour_accuracy": 0.5, "4l312d/probe/heldout_relation_loss": 1.5}
    lines = [{"step": step, "tokens": 100 * step, "seconds": 9.5 * step} | values for step in (10, 20, 30, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = TrainingState(step=40, rows=320, tokens=4000, seconds=380.0)
    (folder / "checkpoints/step_40/state.json").write_text(state.model_dump_json())
    assert check_run(folder, "") == "harmless"
    return folder


def mutate_line(data: bytes, how: str, rng: random.Random) -> bytes:
    """One line of a metrics file; or the bytes of all of it."""
    if how.startswith("bytes"):
        return JSON_MUTATIONS[how](data, rng)
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = JSON_MUTATIONS[how](lines[at], rng)
    return b"\n".join(lines) + b"\n"


def dotted_keys(value: object, prefix: str = "") -> list[str]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [key for name, member in members for key in (f"{prefix}{name}", *dotted_keys(member, f"{prefix}{name}."))]


def override(config: bytes, rng: random.Random) -> tuple[str, str]:
    """How it is wrong or right, and a --set word."""
    key = rng.choice(dotted_keys(json.loads(config)))
    kind = rng.choice(("value", "key", "no key", "characters"))
    value = rng.choice((*NUMBERS, *WORDS, *TYPES))
    if kind == "key":
        key = rng.choice(
            (f"{key}.0", f"{key}.x", f"{key}s", f".{key}", f"{key}.", f"{key}.-1", f"{key}.²", f"{key}..a")
        )
    elif kind == "no key":
        return kind, rng.choice((value, f"={value}", ".", "..=1", "=", "", "0=1", "²=1"))
    word = f"{key}={value}"
    if kind == "characters":
        at = rng.randrange(len(word))
        word = word[:at] + rng.choice(("=", ".", '"', "\0", "\ud800", "[", "9")) + word[at + 1 :]
    return kind, word


def fuzz(run: Path, tmp_path: Path, rounds: int) -> Outcomes:
    rng, outcomes = random.Random(17), Outcomes()
    configs = sorted(CONFIGS.glob("*.json"))
    names = ("config.json", "run.json", "metrics.jsonl", "checkpoints/step_40/state.json")
    sound = {name: (run / name).read_bytes() for name in names}
    mutated = tmp_path / "mutated.json"
    for _ in range(rounds):
        for how, mutate in JSON_MUTATIONS.items():
            mutated.write_bytes(mutate(rng.choice(configs).read_bytes(), rng))
            outcomes["run config", how, check_config(mutated, [])] += 1
            for name, data in sound.items():
                (run / name).write_bytes(mutate_line(data, how, rng) if "metrics" in name else mutate(data, rng))
                outcomes[f"run folder {Path(name).name}", how, check_run(run, Path(name).name)] += 1
                (run / name).write_bytes(data)
        for _ in range(8):
            path = rng.choice(configs)
            how, word = override(path.read_bytes(), rng)
            outcomes["--set", how, check_config(path, [word])] += 1
    return outcomes


def test_mutated_runs_are_refused_or_harmless(run, tmp_path):
    outcomes = fuzz(run, tmp_path, rounds=6)
    assert {what for what, _, came in outcomes if came == "refused"} == {what for what, _, _ in outcomes}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("config.json", '"name": "4l312d"', '"name": "other"', r"config\.json: knows no student 4l312d"),
        ("run.json", '"4l312d"', '"other"', r"run\.json: unreached_parameters: knows no student 4l312d"),
        ("checkpoints/step_40/state.json", ":40", ":4", r"metrics\.jsonl: no step was logged up to 4, that of .*state"),
    ],
)
def test_files_of_different_runs_make_no_card(run, name, old, new, message):
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_record(run, "4l312d", run / "checkpoints/step_40")


def test_a_summary_without_losses_says_why(run):
    (run / "metrics.jsonl").write_text('{"step": 3, "tokens": 9}\n')
    with pytest.raises(
        ValueError, match=r"config\.json or metrics\.jsonl of the run: not what a run writes: .*seconds"
    ):
        summarise(read_run(run), TEACHER_FACTS)


@pytest.mark.slow
def test_thousands_of_mutated_runs(run, tmp_path, capsys):
    outcomes = fuzz(run, tmp_path, rounds=110)
    with capsys.disabled():
        print(f"\n{'mutated':26}{'how':18}{'cases':>7}{'refused':>9}{'harmless':>10}")
        for what, how in sorted({(what, how) for what, how, _ in outcomes}):
            refused, harmless = (outcomes[what, how, came] for came in ("refused", "harmless"))
            print(f"{what:26}{how:18}{refused + harmless:7,}{refused:9,}{harmless:10,}")
        print(f"{'in all':44}{outcomes.total():7,}")
