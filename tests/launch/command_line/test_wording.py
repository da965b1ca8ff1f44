"""Numbers read well."""

import pytest

from launch.command_line.wording import duration, shorten, times


@pytest.mark.parametrize(("seconds", "words"), [(59, "59 seconds"), (150, "2.5 minutes"), (9000, "2.5 hours")])
def test_durations_are_in_the_unit_a_reader_would_choose(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("ratio", "words"), [(0.034, "0.034"), (0.82, "0.82"), (0.999, "1.0"), (2.94, "2.9"),
                                              (9.96, "10"), (1234.0, "1,234")])  # fmt: skip
def test_ratios_have_the_digits_that_mean_something(ratio, words):
    assert times(ratio) == words


def test_long_titles_are_cut_and_stay_on_one_line():
    assert (
        shorten("天地\n玄黄", 10) == "天地 玄黄"
        and shorten("天地玄黄", 3) == "天地…"
        and shorten("天地玄黄", 4) == "天地玄黄"
    )
