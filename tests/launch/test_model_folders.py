"""Every command says the same of a model's folder that it cannot read: which file to change, and how."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from launch import build_corpus, trim_vocabulary
from launch.command_line.fingerprints import model_inputs
from launch.distillation.checks import check_input
from launch.distillation.config import read_run_config
from launch.reports.models import read_models
from tasks.models import heads_of
from tests.corpus.vocabulary.test_saved import SPECIAL
from tests.pretrain.tiny import teacher_model

LINES = [*SPECIAL, "天", "地"]


def no_family(folder: Path) -> str:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: values[name] for name in values if name != "model_type"}))
    return 'its config.json has no model_type: add "model_type"'


def other_name(folder: Path) -> str:
    (folder / "config.json").rename(folder / "bert_config.json")
    return "rename bert_config.json to config.json, and add"


def other_vocabulary(folder: Path) -> str:
    teacher_model("albert", vocab_size=len(LINES)).save_pretrained(folder)
    return "vocab.txt is the vocabulary of a BERT tokenizer, which albert's tokenizer does not read: write"


def pointer(folder: Path) -> str:
    (folder / "vocab.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return "vocab.txt: a Git LFS pointer, not the file"


@pytest.mark.parametrize("damage", [no_family, other_name, other_vocabulary, pointer])
def test_commands_agree_on_what_to_change(tmp_path, capsys, config_file, damage):
    folder = tmp_path / "model"
    teacher_model(vocab_size=len(LINES)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("天地\n", encoding="utf-8")
    wanted = f"{str(folder)!r}: {damage(folder)}"
    text = ["--input", str(tmp_path / "text.txt"), "--format", "lines", "--output", str(tmp_path / "out")]
    capsys.readouterr()
    for main, flag in ((build_corpus.main, "--tokenizer"), (trim_vocabulary.main, "--model")):
        assert main([flag, str(folder), *text]) == 2
        assert capsys.readouterr().err.startswith(f"error: {wanted}")
    config = read_run_config(config_file, [f"teacher.path={folder}"])
    for prefix, check in {
        "teacher.path: ": lambda: check_input(config, tmp_path / "run", 1),  # gd
        "": lambda: (heads_of(str(folder)), model_inputs(str(folder))),  # td and evaluate_tasks
        f"--models a={folder}: ": lambda: read_models({"a": str(folder)}),  # report
    }.items():
        with pytest.raises(ValueError) as caught:
            check()
        assert str(caught.value).startswith(prefix + wanted)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_of_vocab_txt_and_weights_is_read_by_all(tmp_path, name, teacher_folder):
    """The least that a folder of BERT's holds."""
    folder = shutil.copytree(teacher_folder, tmp_path / "model")
    for path in folder.glob("*token*"):
        path.unlink()
    model = teacher_model(vocab_size=len(LINES))
    (folder / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    model.save_pretrained(folder)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / name)
    assert heads_of(str(folder)) == [] and model_inputs(str(folder))
    ((_, tokenizer),) = read_models({"a": str(folder)}, 32).values()
    assert tokenizer("天")["input_ids"] == AutoTokenizer.from_pretrained(folder)("天")["input_ids"] == [3, 6, 4]
