"""Long phases show progress, quick ones print nothing."""

import io

import pytest

from pretrain.progress import FIRST_SECONDS, LINE_SECONDS, Heartbeat, Progress, busy_with


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run_until(heartbeat, clock, end):
    """The thread's work, a second at a time."""
    while clock.now < end:
        clock.now += 1
        heartbeat.look()


def test_a_line_after_five_seconds_and_then_at_least_one_a_minute(clock):
    said = []
    heartbeat = Heartbeat(lambda: said.append(clock.now - 1000), clock)
    run_until(heartbeat, clock, 1200)
    assert said == [5, 65, 125, 185] and FIRST_SECONDS == 5 and LINE_SECONDS == 60


def test_no_line_while_others_come_often_enough(clock):
    said = []
    heartbeat = Heartbeat(lambda: said.append(clock.now - 1000), clock)
    for _ in range(4):
        heartbeat.postpone()
        run_until(heartbeat, clock, clock.now + 50)
    assert said == []
    run_until(heartbeat, clock, clock.now + 10)
    assert said == [210]


def test_the_thread_says_so_while_its_process_does_something_else(monkeypatch, capsys):
    monkeypatch.setattr("pretrain.progress.FIRST_SECONDS", 0.0)
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    with Progress("loading the teacher"):
        for _ in range(10_000_000):
            if said.getvalue():
                break
    assert said.getvalue().startswith("loading the teacher: 0:00 so far\n")


def at(clock, seconds, done=0, **arguments):
    """The line of a progress that has come so far after so many seconds."""
    progress = Progress("reading", **arguments, clock=clock)
    with progress:
        progress.update(done)
        clock.now += seconds
        return progress.line()


def test_a_line_has_amount_rate_and_time_left(clock):
    assert at(clock, 100, 25_000_000, total=100_000_000, unit="B") == (
        "reading: 25.0MB of 100MB (25%), 250kB/s, 5:00 left"
    )
    assert at(clock, 10, 2_000, total=10_000, unit="texts") == (
        "reading: 2,000 texts of 10,000 texts (20%), 200 texts/s, 0:40 left"
    )
    assert at(clock, 7200, 4, total=10, unit="cells", initial=2) == (
        "reading: 6 cells of 10 cells (60%), 1800.0 s each, 2:00:00 left"
    )


def test_unknown_parts_of_a_line_are_left_out(clock):
    assert at(clock, 60) == "reading: 1:00 so far"
    assert at(clock, 60, 120, unit="texts") == "reading: 120 texts, 2 texts/s, 1:00 so far"
    assert at(clock, 60, 0, total=10, unit="blocks") == "reading: 0 blocks of 10 blocks (0%), 1:00 so far"
    assert at(clock, 60, 0, total=0, unit="B") == "reading: 0.00B, 1:00 so far"


def test_a_long_phase_says_at_its_end_how_long_it_took_and_a_quick_one_nothing(clock, capsys):
    for seconds in (4, 65):
        with Progress("loading", clock=clock):
            clock.now += seconds
        with Progress("reading", 10, "texts", clock=clock) as progress:
            progress.update(10)
            clock.now += seconds
    assert capsys.readouterr().err == "loading: done in 1:05\nreading: 10 texts in 1:05\n"


def test_one_that_fails_leaves_the_word_to_the_error(clock, capsys):
    with pytest.raises(ValueError), Progress("loading", clock=clock):
        clock.now += 65
        raise ValueError
    assert capsys.readouterr().err == ""


def test_other_ranks_than_the_first_and_hidden_ones_print_nothing(clock, capsys, monkeypatch):
    with Progress("loading", hidden=True, clock=clock):
        clock.now += 65
    monkeypatch.setenv("RANK", "1")
    with Progress("loading", clock=clock):
        clock.now += 65
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_which_goes_when_it_is_over(clock, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(Progress("reading", 3, "blocks", clock=clock).over("abc")) == ["a", "b", "c"]
    assert "reading:   0%" in terminal.getvalue() and "0/3" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r") and "\n" not in terminal.getvalue()


def test_as_a_decorator_each_call_is_a_phase_of_its_own():
    @Progress("counting down")
    def count_down(number: int) -> list[str]:
        return [busy_with("nothing"), *(count_down(number - 1) if number else [])]

    assert count_down(2) == ["counting down"] * 3
    assert busy_with("nothing") == "nothing"


def test_busy_with_names_the_innermost_phase():
    with Progress("building"):
        with Progress("loading"):
            assert busy_with("nothing") == "loading"
        assert busy_with("nothing") == "building"
