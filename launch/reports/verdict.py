"""What a report's measurements come to, in sentences that claim no more than their errors allow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.command_line.wording import percent, times

CERTAIN = 2.0  # standard errors that two scores must be apart before one is called higher
ACCURACY = ("accuracy", "standard_error")
RETRIEVAL = ("retrieval", "retrieval_error")
Row = Mapping[str, Any]  # what launch.reports.models measured of one model


@dataclass(frozen=True)
class Verdict:
    """One sentence to remember, and the sentences that it rests on."""

    headline: str
    details: list[str]


def judge(teacher: Row, student: Row, chance: float, twin: Row | None = None) -> Verdict:
    """Say what a student keeps of its teacher, and what training changed.

    Args:
        chance: accuracy of always answering the commonest label.
        twin: the student as it was before its first step.
    """
    details = [_scores(teacher, student, chance)]
    if twin:
        details.append(_change("its nearest-neighbour accuracy", ACCURACY, student, twin))
    if "retrieval" in student and "retrieval" in teacher:
        share = "the share of titles that find their own text"
        known = f"the teacher's is {percent(teacher, *RETRIEVAL)} %"
        if twin:
            details.append(f"{_change(share, RETRIEVAL, student, twin).rstrip('.')}; {known}.")
        else:
            details.append(f"{share.capitalize()} is {percent(student, *RETRIEVAL)} %; {known}.")
    return Verdict(_headline(teacher, student, chance), details)


def _headline(teacher: Row, student: Row, chance: float) -> str:
    name = "The student" if student["name"] == "student" else student["name"]
    ratio = times(student["texts_per_second"] / teacher["texts_per_second"])
    if not _is_above(teacher, chance):
        return (
            "The teacher itself is not measurably above chance, so nothing can be said of what is kept of it. "
            f"{name} runs at {ratio} times its speed."
        )
    if not _is_above(student, chance):
        below = f"{name} is not measurably above chance in nearest-neighbour accuracy"
        return f"{below}, at {ratio} times the teacher's speed."
    kept = 100 * student["accuracy"] / teacher["accuracy"]
    return f"{name} keeps {kept:.0f} % of the teacher's nearest-neighbour accuracy at {ratio} times its speed."


def _scores(teacher: Row, student: Row, chance: float) -> str:
    """Both scores, chance, and what is kept of what the teacher has above it."""
    scores = (
        f"It labels {percent(student, *ACCURACY)} % of the texts correctly, the teacher {percent(teacher, *ACCURACY)} %"
    )
    said = f"{scores}; always giving the commonest label gets {100 * chance:.1f} %"
    if not _is_above(teacher, chance):
        return f"{said}."
    room = teacher["accuracy"] - chance
    kept = (student["accuracy"] - chance) / room
    error = math.hypot(student["standard_error"], kept * teacher["standard_error"]) / room
    said = f"{said}, so it keeps {100 * kept:.0f} ± {100 * error:.0f} % of what the teacher has above that."
    if abs(student["accuracy"] - teacher["accuracy"]) < CERTAIN * _error(student, teacher, "standard_error"):
        said += " The two are too close to be told apart."
    return said


def _change(what: str, keys: tuple[str, str], student: Row, twin: Row) -> str:
    key, error_key = keys
    gain, error = student[key] - twin[key], _error(student, twin, error_key)
    verb = None
    if gain and abs(gain) >= CERTAIN * error:
        verb = "raised" if gain > 0 else "lowered"
    numbers = f"from {percent(twin, *keys)} % untrained to {percent(student, *keys)} %"
    return f"Training {verb} {what} {numbers}." if verb else f"Training did not measurably change {what}: {numbers}."


def _is_above(row: Row, chance: float) -> bool:
    return bool(row["accuracy"] - chance > CERTAIN * row["standard_error"])


def _error(one: Row, other: Row, key: str) -> float:
    """Standard error of the difference of two independent scores; of the same texts it is rather smaller."""
    return math.hypot(one[key], other[key])
