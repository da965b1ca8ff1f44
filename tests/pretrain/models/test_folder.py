"""Folders as people have them: each is read, or the message says which file to change and how."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoConfig, AutoTokenizer

from pretrain.models import folder as folder_module
from pretrain.models.folder import check_place
from pretrain.models.pretrained import load_encoder, load_pretrained, read_shape
from tests.pretrain.tiny import VOCAB, teacher_model

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + index) for index in range(VOCAB - 5))]
ADVICE = r'"model_type" \("bert" for BERT, RoBERTa-wwm and MacBERT; '


@pytest.fixture
def model(tmp_path) -> Path:
    """A model with its vocab.txt."""
    teacher_model().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return tmp_path


def set_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file, which need not exist; None removes one."""
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (values | changes).items() if value is not None}))


def refused(folder: Path, message: str) -> None:
    """Every way to load it says the same."""
    for load in (check_place, read_shape, load_encoder, lambda path: load_pretrained(AutoTokenizer, path)):
        with pytest.raises(ValueError, match=message):
            load(str(folder))


@pytest.mark.parametrize("name", ["bert_config.json", "albert_config_base.json", "roberta-bert_config.json"])
def test_a_configuration_under_another_name_is_named(model, name):
    (model / "config.json").rename(model / name)
    refused(model, rf"': rename {name} to config.json, and add {ADVICE}")


@pytest.mark.parametrize("also", [{}, {"architectures": None, "transformers_version": None}])
def test_a_configuration_without_a_family_is_named(model, also):
    set_json(model / "config.json", model_type=None, **also)
    set_json(model / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    refused(model, rf"': its config.json has no model_type: add {ADVICE}")


def test_a_run_folder_is_no_model_and_its_models_are_named(tmp_path):
    for config in ({"students": [{}]}, {"stages": {}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        refused(tmp_path, "is a run folder, not a model: publish a student of it, and name that folder")
    for stage in ("ft", "td2"):
        (tmp_path / stage / "model").mkdir(parents=True)
        (tmp_path / stage / "model/config.json").write_text("{}")
    refused(tmp_path, f"not a model: name one of its models: {tmp_path}/ft/model, {tmp_path}/td2/model")


@pytest.mark.parametrize("text", ["{", "[]", '"bert"'])
def test_a_configuration_that_is_no_object_is_named(model, text):
    (model / "config.json").write_text(text)
    refused(model, r"/config.json: (not JSON|wanted a JSON object)")


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "albert"])
def test_a_vocabulary_of_bert_under_another_family_needs_its_class_named(model, family):
    """transformers would make up a tokenizer of five tokens."""
    set_json(model / "config.json", model_type=family)
    refused(model, rf"which {family}'s tokenizer does not read: write .*BertTokenizer.* into its tokenizer_config.json")
    set_json(model / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    check_place(str(model))
    assert load_pretrained(AutoTokenizer, str(model))("一")["input_ids"] == [2, 5, 3]


def test_roberta_wwm_is_said_to_be_bert(model):
    set_json(model / "config.json", model_type="roberta")
    with pytest.raises(ValueError, match=r'or "model_type": "bert" into config\.json: RoBERTa-wwm is BERT'):
        check_place(str(model))


def test_a_vocabulary_alone_needs_its_class_named(model):
    (model / "config.json").unlink()
    with pytest.raises(ValueError, match=r'nothing tells whether it lowercases: write .*"do_lower_case": true or'):
        check_place(str(model))


@pytest.mark.parametrize("family", ["roberta", "albert"])
def test_a_tokenizer_of_another_kind_than_the_familys_needs_its_class_named(model, family):
    AutoTokenizer.from_pretrained(model).save_pretrained(model)
    (model / "tokenizer_config.json").unlink()
    check_place(str(model))
    set_json(model / "config.json", model_type=family)
    refused(model, rf"its tokenizer.json is a WordPiece vocabulary, but {family}'s tokenizer is")


@pytest.mark.parametrize("family", ["bert", "ernie", "electra"])
def test_families_of_bert_read_vocab_txt_without_more(model, family):
    set_json(model / "config.json", model_type=family, pad_token_id=None)
    assert load_pretrained(AutoTokenizer, str(model))("一")["input_ids"] == [2, 5, 3]


@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "model.safetensors"])
def test_git_lfs_pointers_are_named(model, name):
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 109540\n")
    refused(model, rf"': {name}: a Git LFS pointer, not the file: run git lfs pull there")


@pytest.mark.parametrize("name", ["ErnieTokenizer", "MyTokenizer"])
def test_a_tokenizer_class_that_is_not_known_is_named(model, name):
    set_json(model / "tokenizer_config.json", tokenizer_class=name)
    refused(model, f"tokenizer_class {name} is none of transformers': write BertTokenizer into its tokenizer_config")
    set_json(model / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    AutoTokenizer.from_pretrained(model).save_pretrained(model)
    set_json(model / "tokenizer_config.json", tokenizer_class=name)
    check_place(str(model))  # tokenizer.json is read


def test_a_setting_that_transformers_does_not_know_is_an_error_of_one_line(model):
    set_json(model / "config.json", hidden_act="gelu_of_mine")
    with pytest.raises(ValueError, match=r"^no model could be loaded from folder '.*': KeyError: 'gelu_of_mine'$"):
        load_encoder(str(model))


def test_a_name_that_is_neither_a_folder_nor_cached_is_refused_at_once(monkeypatch, tmp_path):
    """HF_HUB_OFFLINE is set in tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/x", "models/teacher", "bert-base-chinese"):
        said = rf"folder or hub id '{name}': {tmp_path} has no such folder, and .* is not asked because HF_HUB_OFF"
        with pytest.raises(ValueError, match=f"{said}LINE is set; correct the path, download the model"):
            load_pretrained(AutoConfig, name)
    with pytest.raises(ValueError, match="there is no folder 'a/b/c'"):
        check_place("a/b/c")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="'file' is a file: name the folder that holds it"):
        check_place("file")


class Unreachable:
    def head(self, url: str, timeout: float) -> None:
        assert url.startswith(constants.ENDPOINT) and timeout <= 10
        raise OSError("Name or service not known")


@pytest.fixture
def unreachable(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(folder_module, "get_session", Unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def test_a_hub_that_does_not_answer_is_asked_once(unreachable):
    said = r"has no such folder, and .* cannot be reached \(Name or service not known\); .* or set HF_ENDPOINT to a"
    with pytest.raises(ValueError, match=said):
        load_encoder("models/teacher")


def test_a_cached_model_is_read_without_a_hub(unreachable, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_module, "try_to_load_from_cache", lambda name, file: str(tmp_path))
    with pytest.warns(UserWarning, match=r"cannot be reached .*: 'models/teacher' is read from the cache"):
        check_place("models/teacher")
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"
