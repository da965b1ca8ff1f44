"""Training rounds as the graphs do that onnxruntime computes."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from launch.export import main
from launch.exporting.graph import INT4, drop_aliases, write_graph, write_int4, write_int8
from launch.exporting.matrices import round_linears
from launch.exporting.onnx_server import open_graph
from launch.exporting.student import read_student
from pretrain.quantization import Rounding

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="pip install -r requirements-export.txt"
)
WRITERS = [(8, write_int8), (4, write_int4)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("bits", "write"), WRITERS)
def test_a_linear_layer_computes_as_its_graph(bits, write, bias, tmp_path):
    torch.manual_seed(0)
    linear = nn.Linear(50, 24, bias=bias)
    inputs = torch.rand(3, 5, 50) * torch.linspace(0.1, 3, 50) - 0.2
    axes = {"inputs": {0: "batch", 1: "length"}}
    torch.onnx.export(linear, (inputs,), tmp_path / "a.onnx", dynamo=False, input_names=["inputs"], dynamic_axes=axes)
    write(tmp_path / "a.onnx", tmp_path / "b.onnx")
    (wanted,) = open_graph(str(tmp_path / "b.onnx")).run(None, {"inputs": inputs.numpy()})
    with Rounding(bits), torch.no_grad():
        found = linear(inputs)
    torch.testing.assert_close(found, torch.from_numpy(wanted), atol=1e-5, rtol=1e-6)
    assert (linear(inputs) - found).abs().max() > 1e-3


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_a_student_computes_as_its_graphs(family, auto_class, make_student, tmp_path):
    student = read_student(make_student(family, auto_class))
    ids = torch.randint(5, 200, (2, 17), generator=torch.Generator().manual_seed(1))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    write_graph(student.answers, tmp_path / "model.onnx")
    for bits, write in WRITERS:
        write(tmp_path / "model.onnx", tmp_path / f"{bits}.onnx")
        graph = open_graph(str(tmp_path / f"{bits}.onnx"))
        found = torch.from_numpy(graph.run(None, {one.name: rows[one.name].numpy() for one in graph.get_inputs()})[0])
        with torch.no_grad():
            plain = student.answers.answer(rows)
            with Rounding(bits):
                rounded = student.answers.answer(rows)
        apart = [(next(iter(one.values())) - found).abs().mean() for one in (plain, rounded)]
        assert apart[0] > 1e-3 and apart[1] < 1e-5


def test_four_bits_are_the_bytes_of_onnxruntimes_quantiser():
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    matrix = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    node = helper.make_node("MatMul", ["a", "w"], ["b"])
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ab"]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], [numpy_helper.from_array(matrix, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    round_linears(model)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    packed, steps = np.zeros((6, 2, 16), np.uint8), np.zeros((6, 2), np.float32)
    quantize_matmul_4bits(packed, matrix, steps, np.zeros((6, 1), np.uint8), 32, 6, 64, True)
    assert stored.keys() == {"w_4_bits", "w_steps"}
    np.testing.assert_array_equal(stored["w_4_bits"], packed)
    np.testing.assert_allclose(stored["w_steps"], steps, rtol=1e-6)


@pytest.mark.parametrize("aliases", [["c"], ["c", "d"]])
def test_weights_are_read_under_one_name(aliases):
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Identity", ["w"], [name]) for name in aliases]
    nodes += [helper.make_node("MatMul", ["a", name], [f"{name}_out"]) for name in ["w", *aliases]]
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in ["w", *aliases]]
    stored = [numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, stored))
    drop_aliases(model)
    assert [(node.op_type, *node.input) for node in model.graph.node] == [("MatMul", "a", "w")] * (1 + len(aliases))


def test_int4_is_smaller_and_has_its_row_and_its_limits(make_student, texts, tmp_path, capsys):
    student = make_student("bert", vocab_size=22000, hidden_size=64, intermediate_size=256)
    command = ["--student", str(student), "--output", str(tmp_path / "out"), "--int8", "--int4", "--check", str(texts)]
    assert main([*command, "--force"]) == 0
    assert "written although it lost: int4: mean cosine 0." in capsys.readouterr().out
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert list(record["forms"]) == ["torch", "onnx", "int8", "int4"] and record["forms"]["int4"]["file"] == INT4
    sizes = [one["megabytes"] for one in record["forms"].values()]
    assert sizes[3] < sizes[2] < sizes[1] / 3
    assert "| int4 | " in (tmp_path / "out/README.md").read_text()
