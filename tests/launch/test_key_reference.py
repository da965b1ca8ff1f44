"""What is written for users of configurations is what the code decodes."""

import re
from pathlib import Path

import pytest

from launch.command_line.config_file import read_strictly
from launch.key_reference import ROOTS, reference
from launch.stages.config import TaskRunConfig

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_of_this_code():
    again = "python launch/key_reference.py > docs/keys.md"
    assert (DOCS / "keys.md").read_text(encoding="utf-8") == reference(), again


@pytest.mark.parametrize("root", ROOTS.values())
def test_every_key_of_a_file_is_in_it(root):
    page = reference()
    assert all(re.search(rf"^\| `{name}`", page, re.MULTILINE) for name in root.model_fields)


def test_the_task_of_ones_own_can_be_read(tmp_path):
    text = (DOCS / "tasks.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example
    (tmp_path / "complaints.json").write_text(example[1], encoding="utf-8")
    config = read_strictly(TaskRunConfig, tmp_path / "complaints.json")
    assert config.task.format == "csv" and config.stages.ft and config.stages.td2 and not config.stages.td1
