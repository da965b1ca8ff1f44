"""The fixed matrices of an ONNX model: each under one name, and packed into 4 bits."""

from typing import Any

import numpy as np
import torch

from pretrain.quantization import BLOCK_INPUTS, round_blocks

_ZERO = 8  # what stands for zero


def drop_aliases(model: Any) -> None:
    """Let every node read the weights themselves, not a second name of them, as layers that share weights do (ALBERT).

    Quantisers would pass over it.
    """
    graph = model.graph
    stored = {one.name for one in graph.initializer}
    aliases = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in stored]
    names = {node.output[0]: node.input[0] for node in aliases}
    for node in aliases:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def round_linears(model: Any) -> None:
    """Replace every product with a fixed matrix by onnxruntime's MatMulNBits with 4 bits.

    The bytes are those of onnxruntime's own quantiser (symmetric, blocks of 32), which would need one more library.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    matrices = {one.name: one for one in graph.initializer if len(one.dims) == 2}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices]
    for name in dict.fromkeys(node.input[1] for node in products):
        packed, steps = _pack(numpy_helper.to_array(matrices[name]))
        arrays = {f"{name}_4_bits": packed, f"{name}_steps": steps}
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    for node in products:
        name = node.input[1]
        num_inputs, num_outputs = matrices[name].dims
        inputs, outputs = [node.input[0], f"{name}_4_bits", f"{name}_steps"], list(node.output)
        sizes = {"K": num_inputs, "N": num_outputs, "bits": 4, "block_size": BLOCK_INPUTS}
        node.CopyFrom(helper.make_node("MatMulNBits", inputs, outputs, node.name, domain="com.microsoft", **sizes))
    still_read = {name for node in graph.node for name in node.input}
    for name in matrices.keys() - still_read:
        graph.initializer.remove(matrices[name])
    if products and all(one.domain != "com.microsoft" for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _pack(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a matrix [in, out], two a byte [out, blocks, 16], and their steps [out, blocks]."""
    numbers, steps = round_blocks(torch.tensor(matrix.T))
    numbers = (numbers + _ZERO).to(torch.uint8)
    return (numbers[..., ::2] | numbers[..., 1::2] << 4).numpy(), steps.squeeze(-1).numpy()
