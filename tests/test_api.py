"""The examples of docs/api.md and the notebooks of examples/, run as they stand on a tiny teacher and text."""

import ast
import json
import re
import shutil

import pytest
import torch

from tests.corpus.conftest import documents, one_core, wordpiece  # noqa: F401  (fixtures)
from tests.launch.conftest import teacher_folder  # noqa: F401  (a fixture)
from tests.processes import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch, documents, teacher_folder):  # noqa: F811
    """What the examples find: a text and a teacher."""
    (tmp_path / "data").mkdir()
    shutil.copytree(teacher_folder, tmp_path / "data/teacher")
    (tmp_path / "data/text.txt").write_text("\n".join(documents), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_python_api(folder):
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 8
    names = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert names["student_queries"].grad.abs().sum() > 0 and names["pair"].item() > 0
    assert names["is_new"] and names["batch"]["input_ids"].shape == (4, 16)
    assert len(names["losses"]) == 2 and all(loss > 0 for loss in names["losses"])
    assert names["difference"] < 1e-5 and torch.isfinite(names["vectors"]).all()


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_from_text_to_student(folder):
    """Its first code cell holds what a reader changes; here it names smaller things."""
    first, *cells = code_cells(ROOT / "examples/from_text_to_student.ipynb")
    changed = {"TEXT": "data/text.txt", "TEACHER": "data/teacher", "STEPS": 6, "ROW_TOKENS": 16}
    changed |= {"WIDTH": 12, "HEADS": 4, "RELATION_HEADS": 4}
    names = {}
    exec(compile(first, "cell 1", "exec"), names)
    assert changed.keys() <= names.keys(), "the first cell names what the test replaces"
    names |= changed
    for number, cell in enumerate(cells, start=2):
        assert ast.parse(cell).body
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert (folder / "students/mine/model.safetensors").is_file()
    assert names["found"] and len(names["losses"]) > 1
