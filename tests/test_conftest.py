"""The fixtures and hooks that every test shares."""

import os

import pytest


@pytest.fixture(scope="module")
def a_launcher_was_here():
    os.environ["RANK"] = "0"


@pytest.mark.usefixtures("a_launcher_was_here")
def test_what_fixtures_set_is_there_for_their_test():
    assert os.environ["RANK"] == "0"


def test_the_environment_ends_with_its_test():
    assert "RANK" not in os.environ
