"""The verdict is computed from what was measured, and claims no more than the errors allow."""

import pytest

from launch.reports.verdict import judge


def row(name: str, accuracy: float, error: float = 0.02, texts_per_second: float = 100.0, **more: float) -> dict:
    return {"name": name, "accuracy": accuracy, "standard_error": error, "texts_per_second": texts_per_second, **more}


TEACHER = row("teacher", 0.75)


def test_what_is_kept_at_which_speed_is_the_headline():
    verdict = judge(TEACHER, row("student", 0.72, texts_per_second=290.0), 1 / 3)
    assert (
        verdict.headline == "The student keeps 96 % of the teacher's nearest-neighbour accuracy at 2.9 times its speed."
    )
    assert verdict.details == [
        "It labels 72.0 ± 2.0 % of the texts correctly, the teacher 75.0 ± 2.0 %; always giving the commonest label "
        "gets 33.3 %, so it keeps 93 ± 7 % of what the teacher has above that. The two are too close to be told apart."
    ]
    slow = judge(TEACHER, row("4l312d", 0.54, texts_per_second=4.0), 1 / 3)
    assert slow.headline == "4l312d keeps 72 % of the teacher's nearest-neighbour accuracy at 0.04 times its speed."
    assert "too close" not in slow.details[0] and "it keeps 50 ± " in slow.details[0]


@pytest.mark.parametrize("accuracy", [0.2, 1 / 3, 0.37])
def test_a_student_at_or_below_chance_keeps_nothing(accuracy):
    verdict = judge(TEACHER, row("small", accuracy), 1 / 3)
    assert verdict.headline.startswith(
        "small is not measurably above chance in nearest-neighbour accuracy, at 1.0 times"
    )
    assert " keeps" not in verdict.headline


def test_nothing_is_said_of_what_is_kept_of_a_teacher_at_chance():
    verdict = judge(row("teacher", 0.36), row("student", 0.5, texts_per_second=1200.0), 1 / 3)
    assert verdict.headline == (
        "The teacher itself is not measurably above chance, so nothing can be said of what is kept of it. "
        "The student runs at 12 times its speed."
    )
    assert verdict.details[0].endswith("always giving the commonest label gets 33.3 %.")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (0.5, "Training raised its nearest-neighbour accuracy from 50.0 ± 2.0 % untrained to 60.0 ± 2.0 %."),
        (0.7, "Training lowered its nearest-neighbour accuracy from 70.0 ± 2.0 % untrained to 60.0 ± 2.0 %."),
        (0.58, "Training did not measurably change its nearest-neighbour accuracy: from 58.0 ± 2.0 % untrained to "),
        (0.6, "Training did not measurably change its nearest-neighbour accuracy: "),
    ],
)
def test_what_training_changed_is_told_within_the_errors(before, said):
    assert judge(TEACHER, row("student", 0.6), 1 / 3, row("untrained", before)).details[1].startswith(said)


def test_the_search_is_told_too_where_it_was_measured():
    found = {"retrieval": 0.5, "retrieval_error": 0.015}
    teacher, student = TEACHER | found | {"retrieval": 0.8}, row("student", 0.6, **found)
    share = "share of titles that find their own text"
    assert judge(teacher, student, 1 / 3).details[1] == (f"The {share} is 50.0 ± 1.5 %; the teacher's is 80.0 ± 1.5 %.")
    twin = row("untrained", 0.6, **found | {"retrieval": 0.4})
    assert judge(teacher, student, 1 / 3, twin).details[2] == (
        f"Training raised the {share} from 40.0 ± 1.5 % untrained to 50.0 ± 1.5 %; the teacher's is 80.0 ± 1.5 %."
    )
