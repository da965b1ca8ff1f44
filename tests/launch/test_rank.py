"""A refusal is heard from every host, once."""

import pytest

from launch import rank
from launch.rank import REFUSED, refuse
from launch.world import World


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (World(0, 0, 4), "refused: no file\n"),
        (World(1, 1, 4), ""),
        (World(2, 0, 4), "[rank 2] refused: no file\n"),
        (World(3, 1, 4), ""),
    ],
)
def test_the_first_rank_of_every_host_says_why(place, said, capsys, monkeypatch):
    monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)
    assert refuse(place, ValueError("no file")) == REFUSED
    assert capsys.readouterr().err == said
