"""Layer maps, and weights over the run."""

import pytest
import torch
from pydantic import ValidationError

from pretrain.objectives.layer_map import mapped_layers
from pretrain.objectives.objective import Objective, WeightSchedule


def test_layer_maps():
    assert mapped_layers("uniform", 12, 4) == [3, 6, 9, 12]
    assert mapped_layers("last", 12, 4) == [9, 10, 11, 12]
    assert mapped_layers([1, 5, 9], 12, 3) == [1, 5, 9]


def test_a_scheduled_weight_goes_in_a_line_between_two_shares_of_the_run():
    schedule = WeightSchedule(start=2.0, end=0.0, begin=0.25, until=0.75)
    assert [schedule.at(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == [2.0, 2.0, 1.0, 0.0, 0.0]
    objective = Objective()
    objective.weight = schedule
    terms = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    assert [objective.total(terms, progress).item() for progress in (0.0, 0.5, 1.0)] == [6.0, 3.0, 0.0]
    objective.weight = 0.5
    assert objective.total(terms, 0.9).item() == 1.5


def test_schedules_that_say_nothing_are_refused():
    with pytest.raises(ValidationError, match=r"begin \(0\.5\) must be less than until \(0\.5\)"):
        WeightSchedule(start=1, end=0, begin=0.5, until=0.5)
    with pytest.raises(ValidationError, match="start and end are both 0: leave out the objective instead"):
        WeightSchedule(start=0, end=0)
