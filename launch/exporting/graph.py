"""A student as an ONNX file, in float32 and with weights of 8 or 4 bits."""

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from launch.exporting.matrices import drop_aliases, round_linears
from launch.exporting.student import Answers
from pretrain.models.pretrained import one_line

# Names that transformers.js and others look for
GRAPH, INT8, INT4 = "onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_q4.onnx"
# Of July 2022: read by every onnxruntime since 1.12, and the first with LayerNormalization
_OPSET = 17
_LIBRARIES = ("onnx", "onnxruntime")


def check_libraries() -> None:
    """Raise ValueError with pip's command if the libraries of the extra `export` are not installed."""
    if missing := [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]:
        raise ValueError(f"needs {' and '.join(missing)}: pip install -r requirements-export.txt")


def write_graph(answers: Answers, path: Path) -> None:
    """Write the graph of a student, for any number of rows and tokens.

    By torch's older exporter: the newer one takes ten times as long, needs a further library, and its graph gives the
    same numbers no sooner (bench/results/export_cpu_2026-11-28.md).

    Raises:
        ValueError: naming the operator, if a part of the model has no counterpart in ONNX.
    """
    import onnx

    attention = answers.model.config._attn_implementation
    answers.model.set_attn_implementation("eager")  # plain products; the fused form adds tests for rows without tokens
    ids = torch.arange(8).expand(2, 8) % int(answers.model.config.vocab_size)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    try:
        with _quiet():
            torch.onnx.export(
                answers,
                tuple(example[name] for name in answers.inputs),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=list(answers.inputs),
                output_names=list(answers.outputs),
                dynamic_axes={name: {0: "batch", 1: "length"} for name in answers.inputs}
                | {name: _axes(name) for name in answers.outputs},
            )
            model = onnx.load(path)
            drop_aliases(model)
            onnx.save(model, path)
    except KeyError as error:
        raise ValueError(f"cannot be exported: the tokenizer gives {error}, which no encoder here reads") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"cannot be exported: {one_line(error)}") from error
    finally:
        answers.model.set_attn_implementation(attention)


def _axes(name: str) -> dict[int, str]:
    return {0: "batch"} if name == "sentence_embedding" else {0: "batch", 1: "length"}


def write_int8(graph: Path, path: Path) -> None:
    """Write a graph's copy with weights of 8 bits, each row of a matrix with its own scale.

    Activations are rounded to 8 bits as they come. Weights use 7 bits of range: CPUs without VNNI add pairs of
    products in 16 bits, which full 8 bits overflow, so that the same file would answer differently there.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(graph, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def write_int4(graph: Path, path: Path) -> None:
    """Write a graph's copy whose linear layers have weights of 4 bits, each block of 32 inputs with its own scale.

    Embeddings have 8 bits, as in `write_int8`; activations stay float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8, op_types_to_quantize=["Gather"])
    model = onnx.load(path)
    round_linears(model)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on themselves, and the whole graph that torch prints from C++ with an error."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stdout, 1)
        for descriptor in (stdout, nowhere):
            os.close(descriptor)
        logging.disable(level)
