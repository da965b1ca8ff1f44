# ruff: noqa: F811  (fixtures of another file)
"""Vectors in a report: titles that look for the teacher's vectors, and cosines that tell similar pairs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launch.report import main
from tests.launch.test_report import arguments, heldout, workplace, write_task  # noqa: F401  (fixtures)


@pytest.fixture(scope="module")
def in_space(workplace) -> Path:
    """`small` with a map to the width of `big`, as a run of the objective sentence publishes it."""
    student = shutil.copytree(workplace / "small", workplace / "mapped")
    (student / "distillation.json").write_text('{"name": "small", "objective": [{"type": "sentence"}]}')
    (student / "1_Pooling").mkdir()
    (student / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    (student / "2_Dense").mkdir()
    (student / "2_Dense/config.json").write_text(
        '{"bias": false, "activation_function": "torch.nn.modules.linear.Identity"}'
    )
    save_file({"linear.weight": torch.randn(16, 8)}, student / "2_Dense/model.safetensors")
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (student / "modules.json").write_text(json.dumps(modules))
    return student


def test_titles_look_for_the_teachers_vectors_of_texts_where_spaces_are_the_same(
    workplace, heldout, in_space, tmp_path, capsys
):
    cut = shutil.copytree(in_space, tmp_path / "cut")
    shutil.rmtree(cut / "2_Dense")
    (cut / "modules.json").unlink()
    models = f"teacher={workplace / 'big'} small={workplace / 'small'} mapped={in_space} cut={cut}"
    more = {"documents": str(workplace / "documents.jsonl"), "models": models}
    assert main(arguments(workplace, tmp_path / "report.html", **more)) == 0
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    asymmetric = {row["name"]: row.get("asymmetric") for row in report["models"]}
    assert asymmetric == {"teacher": None, "small": None, "mapped": asymmetric["mapped"], "cut": None}
    assert 0 <= asymmetric["mapped"] <= 1
    page, shown = (tmp_path / "report.html").read_text("utf-8"), capsys.readouterr().out
    assert "Title finds the teacher&#x27;s vector of its text, %" in page and "the teacher's, %" in shown
    reasons = [line for line in report["method"] if line.startswith("No vectors of ")]
    assert reasons == [
        "No vectors of small are searched for among those of teacher: it was not trained by the objective sentence.",
        "No vectors of cut are searched for among those of teacher: its vectors have 8 dimensions, those of teacher "
        "16.",
    ]


def write_pairs(folder: Path, labels: str = "01") -> str:
    rows = [{"a": "天地" * (1 + i % 3), "b": "天地人"[i % 3] * 2, "label": labels[i % len(labels)]} for i in range(12)]
    for part in ("train", "dev"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"pairs_{part}.jsonl").write_text(text, "utf-8")
    files = {part: str(folder / f"pairs_{part}.jsonl") for part in ("train", "dev")}
    task = {"name": "alike", "kind": "pair", "columns": {"text": "a", "text_b": "b"}, "row_tokens": 32, **files}
    (folder / "pairs.json").write_text(json.dumps({"task": task, "stages": {"ft": {"epochs": 3}}}))
    return str(folder / "pairs.json")


def test_similar_pairs_are_told_by_cosine(workplace, tmp_path, capsys):
    assert main(arguments(workplace, tmp_path / "report.html", pairs=write_pairs(tmp_path))) == 0
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    for row in report["models"]:
        assert 0 < row["similarity_auc"] < 1 and row["similarity_error"] > 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Similar pairs, AUC %" in page and "pairs, AUC %" in capsys.readouterr().out
    assert any(line.startswith("Similar pairs: 12 pairs of alike; how often") for line in report["method"])


@pytest.mark.parametrize("labels", ["012", "ab"])
def test_pairs_of_other_labels_or_another_kind_are_refused(workplace, tmp_path, capsys, labels):
    assert main(arguments(workplace, tmp_path / "x.html", pairs=write_pairs(tmp_path, labels))) == 2
    message = f"task alike: labels must be 0 and 1 (similar), got {', '.join(labels)}"
    assert message in capsys.readouterr().err
    single = write_task(workplace, tmp_path / "titles.json")
    assert main(arguments(workplace, tmp_path / "x.html", pairs=single)) == 2
    assert "task titles: similarity is measured on pairs (pair), got sentence" in capsys.readouterr().err
