"""A student trained for text vectors is published with its pooling and its map to the teacher's width."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from launch.distillation.session import distil_alone
from launch.publishing.student_folder import publish
from pretrain.models.pooling import recorded_pooling
from pretrain.models.sentence_files import Prompts, read_prompts
from pretrain.training.metrics import read_metrics
from tests.launch.conftest import with_pooling

SENTENCE = {"type": "sentence", "pooling": "mean", "similarities": 10.0, "dims": [12]}


@pytest.fixture
def values(config_values):
    """One student that learns vectors and hidden states from rows of one text each."""
    values = copy.deepcopy(config_values)
    values["corpus"]["rows"] = "texts"
    values["students"] = values["students"][:1]
    values["students"][0] |= {"objective": [{"type": "hidden_states"}, SENTENCE], "optimizer": {"lr": 5e-3}}
    values["training"] = {"total_steps": 12, "log_every_steps": 4, "save_every_steps": 12}
    return values


@pytest.mark.job
def test_its_folder_gives_the_vectors_that_were_trained(values, tmp_path):
    assert not distil_alone(values, tmp_path / "run")
    losses = [line["small/sentence/cosine"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    publish(tmp_path / "run", "small", tmp_path / "small", teacher_name="org/teacher")
    folder = tmp_path / "small"
    modules = [
        (one["path"], one["type"].rpartition(".")[2]) for one in json.loads((folder / "modules.json").read_text())
    ]
    assert modules == [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    assert recorded_pooling(folder) == "mean"
    dense = load_file(folder / "2_Dense/model.safetensors")["linear.weight"]
    trained = load_file(tmp_path / "run/checkpoints/step_12/small/training.safetensors")
    assert torch.equal(dense, trained["objectives.1.projection.weight"]) and dense.shape == (24, 12)
    sizes = json.loads((folder / "2_Dense/config.json").read_text())
    assert (sizes["in_features"], sizes["out_features"], sizes["bias"]) == (12, 24, False)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: sentence-similarity" in card and "opens in sentence-transformers" in card
    assert "stand in the space of `org/teacher`'s" in card and "Its first 12 dimensions are vectors too." in card

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["天地玄黄", "宇宙洪荒日月"], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    means = [row[mask.bool()].mean(0) for row, mask in zip(states, batch["attention_mask"], strict=True)]
    assert (torch.stack(means) @ dense.T).shape == (2, 24)


def test_rows_that_are_no_texts_are_refused(values, tmp_path):
    values["corpus"]["rows"] = "packed"
    message = r'corpus.rows: must be "texts" because students.0.objective.1 \(sentence\) compares vectors of texts'
    with pytest.raises(ValueError, match=message):
        distil_alone(values, tmp_path / "run")


def test_another_pooling_than_the_teachers_is_refused(values, tmp_path, teacher_folder):
    values["teacher"]["path"] = str(with_pooling(teacher_folder, tmp_path / "own", "cls_token"))
    message = r"objective.1.pooling: the teacher's vectors are pooled by first \(.*1_Pooling/config.json\), got mean"
    with pytest.raises(ValueError, match=message):
        distil_alone(values, tmp_path / "run")


@pytest.mark.job
@pytest.mark.parametrize("is_of_students", [True, False])
def test_the_prompt_of_training_is_published_where_students_read_it(values, tmp_path, teacher_folder, is_of_students):
    own = tmp_path / "own"
    own.mkdir()
    for file in teacher_folder.iterdir():
        (own / file.name).symlink_to(file)
    (own / "config_sentence_transformers.json").write_text('{"prompts": {"query": "天地:", "document": "玄黄:"}}')
    values["teacher"] |= {"path": str(own), "prompt": "query", "prompts_students": is_of_students}
    values["students"][0]["objective"] = [SENTENCE]
    values["training"]["total_steps"] = 2
    assert not distil_alone(values, tmp_path / "run")
    publish(tmp_path / "run", "small", tmp_path / "small", teacher_name="org/teacher")
    prompts = read_prompts(str(tmp_path / "small"))
    assert prompts == (Prompts(dict.fromkeys(("query", "document"), "天地:"), "query") if is_of_students else Prompts())
    card = (tmp_path / "small/README.md").read_text(encoding="utf-8")
    assert ("In training '天地:' stood before every text." in card) == is_of_students
    assert json.loads((tmp_path / "small/training.json").read_text())["teacher"]["vectors"] is None
