"""What a folder says of its model: sizes of files, and which student of a run it is."""

import json
from pathlib import Path

from launch.reports.folders import file_megabytes, find_twins, published_student, untrained_student


def test_weights_are_counted_once_and_only_in_folders(tmp_path):
    assert file_megabytes("hfl/some-teacher") is None and file_megabytes(str(tmp_path)) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 4000)
    assert file_megabytes(str(tmp_path)) == 0.004
    for part in (1, 2):
        (tmp_path / f"model-0000{part}-of-00002.safetensors").write_bytes(b"x" * 1500)
    assert file_megabytes(str(tmp_path)) == 0.003, "the same weights in another form"


def make_folders(root: Path) -> dict[str, str]:
    """Two published students, the start of one of them, and a teacher."""
    names = {"a": "published/a", "b": "renamed", "before": "run/start/b", "teacher": "teacher"}
    for folder in names.values():
        (root / folder).mkdir(parents=True)
    for folder, student in (("published/a", "a"), ("renamed", "b")):
        (root / folder / "distillation.json").write_text(json.dumps({"name": student}))
    (root / "run/run.json").write_text("{}")
    return {name: str(root / folder) for name, folder in names.items()}


def test_a_published_student_finds_its_untrained_twin_by_the_name_it_was_trained_under(tmp_path):
    folders = make_folders(tmp_path)
    assert find_twins(folders) == {"b": "before"}
    (tmp_path / "run/run.json").unlink()
    assert untrained_student(folders["before"]) is None, "any folder may be called start"
    assert find_twins(folders) == {}


def test_a_folder_whose_provenance_is_not_ours_is_of_no_student(tmp_path):
    for text in ("{", "[]", '{"name": 3}'):
        (tmp_path / "distillation.json").write_text(text)
        assert published_student(str(tmp_path)) is None
    assert published_student("hfl/some-teacher") is None
