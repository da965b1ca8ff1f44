"""Errors of configuration files name the key and are free of pydantic's own prefix."""

import pytest

from launch.command_line.config_file import read_strictly
from launch.distillation.config import RunConfig

PAIR = '{"name": "t", "kind": "pair", "train": "a", "dev": "b"}'


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("probe={}", "probe: needs a task, documents, pairs or a heldout corpus"),
        (f'probe={{"task": {PAIR}}}', "probe.task: columns.text_b: must be given for kind pair and for no other kind"),
        ("students.0.objective.0.type=mini", "students.0.objective.0: unknown type 'mini'; must be one of minilm_v2, "),
        ("students.0.objective.0=3", 'students.0.objective.0: must be an object with a "type", one of minilm_v2, '),
        ("students.1.name=small", "students: names must differ, got small more than once"),
        ("training.total_steps=0", "training.total_steps: Input should be greater than 0, got 0"),
    ],
)
def test_messages_name_the_key_without_a_prefix_of_the_library(config_file, override, line):
    with pytest.raises(ValueError, match="1 problem") as caught:
        read_strictly(RunConfig, config_file, [override])
    (found,) = str(caught.value).splitlines()[1:]
    assert found.startswith(line) and "alue error" not in found
