"""Only steps far slower than usual are reported, and only once."""

from pretrain.training.slow_steps import SlowSteps


def reports(*seconds: float) -> list[str]:
    slow_steps = SlowSteps()
    return [message for message in map(slow_steps.check, seconds) if message]


def test_slow_steps_in_a_row_are_reported_once():
    usual = [0.2] * 20
    expected = "took 3.0 s, more than 10 times the usual 0.2 s"
    assert reports(*usual, 3.0, 4.0, 3.0, *usual, 3.0) == [expected, expected]


def test_usual_short_and_first_steps_are_not_reported():
    assert reports(60.0, 9.0, *[0.2] * 20, 1.9) == []
    assert reports(*[0.001] * 20, 0.9) == []
    assert reports(*[3.0] * 20, 25.0, 3.0) == []
