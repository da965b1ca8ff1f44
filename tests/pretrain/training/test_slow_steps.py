"""Only what is far from usual is told, and once."""

from pretrain.training.slow_steps import SlowSteps


def told(*seconds: float) -> list[str]:
    slow_steps = SlowSteps()
    return [message for message in map(slow_steps.check, seconds) if message]


def test_an_incident_is_told_once_and_the_next_one_again():
    usual = [0.2] * 20
    expected = "took 3.0 s, more than 10 times the usual 0.2 s"
    assert told(*usual, 3.0, 4.0, 3.0, *usual, 3.0) == [expected, expected]


def test_what_is_usual_or_short_or_first_is_no_incident():
    assert told(60.0, 9.0, *[0.2] * 20, 1.9) == []
    assert told(*[0.001] * 20, 0.9) == []
    assert told(*[3.0] * 20, 25.0, 3.0) == []
