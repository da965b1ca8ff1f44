"""Pooling, dense layer and normalisation are in the graph; modules that it cannot hold are named."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from launch.exporting.graph import write_graph
from launch.exporting.sentence_modules import read_sentence_vectors
from launch.exporting.student import read_student
from tests.launch.exporting.test_exporter import ask, rows

WIDTH = 24


def add_modules(folder, pooling="mean", kinds=("Dense", "Normalize"), activation="torch.nn.modules.activation.Tanh"):
    """Write the files of sentence-transformers into a folder; return the dense layer's weight and bias."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": pooling}))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"2_{kind}", kind) for kind in kinds)]
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(8, WIDTH, generator=generator), torch.randn(8, generator=generator)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/config.json").write_text(json.dumps({"in_features": WIDTH, "activation_function": activation}))
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense/model.safetensors")
    return weight, bias


@pytest.fixture
def folder(student, tmp_path):
    return shutil.copytree(student, tmp_path / "student")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="pip install -r requirements-export.txt")
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_vectors_are_a_second_output(pooling, folder, tmp_path):
    weight, bias = add_modules(folder, pooling)
    student = read_student(folder)
    assert student.max_tokens == 30 and student.answers.outputs == ("last_hidden_state", "sentence_embedding")
    write_graph(student.answers, tmp_path / "model.onnx")
    for num_rows, length in ((1, 1), (3, 11)):
        batch = rows(num_rows, length, 0)
        found = ask(tmp_path / "model.onnx", batch)
        counts = batch["attention_mask"].sum(1).tolist()
        pooled = [
            {"mean": states[:count].mean(0), "cls": states[0], "lasttoken": states[count - 1]}[pooling]
            for states, count in zip(found["last_hidden_state"], counts, strict=True)
        ]
        wanted = normalize(torch.tanh(torch.stack(pooled) @ weight.T + bias), dim=-1)
        assert torch.allclose(found["sentence_embedding"], wanted, atol=1e-5, rtol=0)


def test_vectors_are_normalised_only_where_a_module_says_so(folder):
    add_modules(folder, kinds=())
    vectors = read_sentence_vectors(folder, WIDTH)
    states, mask = torch.ones(2, 3, WIDTH), torch.ones(2, 3, dtype=torch.long)
    assert torch.equal(vectors(states, mask), torch.ones(2, WIDTH))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("LSTM",)}, "cannot be exported: has Transformer, Pooling, LSTM; wanted a Transformer"),
        ({"kinds": ("Normalize", "Dense")}, "has Transformer, Pooling, Normalize, Dense; .* Normalize only at the end"),
        ({"pooling": "max"}, r"1_Pooling: cannot be exported: pools in another way; wanted mean, first or last"),
        ({"pooling": "weightedmean"}, r"1_Pooling: cannot be exported: pools in"),
        ({"activation": "torch.nn.SiLU"}, "cannot be exported: activation SiLU; wanted one of Identity, Tanh"),
    ],
)
def test_a_module_that_no_graph_holds_is_named(changes, message, folder):
    add_modules(folder, **changes)
    with pytest.raises(ValueError, match=message):
        read_student(folder)


def test_damaged_modules_are_named(folder):
    add_modules(folder)
    save_file({"linear.weight": torch.ones(8, 5)}, folder / "2_Dense/model.safetensors")
    with pytest.raises(ValueError, match=r"linear.weight is 8 x 5, but its input is 24 wide"):
        read_student(folder)
    (folder / "2_Dense/model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"2_Dense/model.safetensors: no weights of a dense layer: .*linear.weight"):
        read_student(folder)
    (folder / "2_Dense/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"2_Dense/config.json: not JSON"):
        read_student(folder)
    (folder / "modules.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r'modules.json: want a list of \{"type", "path"\}'):
        read_student(folder)
