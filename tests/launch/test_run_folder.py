"""done.json, and files that are whole whenever the process is killed."""

import pytest

from launch import run_folder
from launch.run_folder import read_done, save_start, write_done
from pretrain.checkpoint import TrainingState
from pretrain.student import build_student
from tests.pretrain.tiny import student_config, teacher_model


def test_a_run_is_done_when_it_says_so(tmp_path):
    assert read_done(tmp_path) is None
    done = write_done(tmp_path, TrainingState(step=6, rows=48, tokens=768, seconds=1.5))
    assert read_done(tmp_path) == done
    assert (done.step, done.tokens, done.reason) == (6, 768, "trained to training.total_steps")
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(ValueError, match=r"done.json: not what a complete run writes; remove it to go on"):
        read_done(tmp_path)


def test_a_start_that_a_kill_left_half_is_written_again(tmp_path, teacher_folder, monkeypatch):
    student = build_student(student_config(), teacher_model(), seed=1)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    (tmp_path / "tokenizer").symlink_to(teacher_folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_folder.AutoTokenizer, "from_pretrained", killed)
        save_start(student, tmp_path)
    assert not (tmp_path / "start/small").exists()
    save_start(student, tmp_path)
    names = {path.name for path in (tmp_path / "start/small").iterdir()}
    assert {"model.safetensors", "tokenizer.json"} <= names and len(list((tmp_path / "start").iterdir())) == 1
