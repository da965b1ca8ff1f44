"""Milliseconds of one text on one thread: a BiLSTM beside a BERT of 4 x 312, random weights, in torch and as ONNX.

python -m bench.bilstm.latency --tokenizer data/teacher
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from launch.exporting.graph import write_graph
from launch.exporting.latency import measure_latency, timed
from launch.exporting.onnx_process import OnnxProcess
from launch.exporting.student import read_student
from pretrain.probes.cost import model_size
from tasks.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification


def models(vocab_size: int) -> dict[str, Any]:
    """Return the models to time, each with 10 classes."""
    sizes = {"hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200}
    return {
        "BiLSTM 384": BiLSTMForSequenceClassification(BiLSTMConfig(vocab_size=vocab_size, num_labels=10)),
        "BERT 4 x 312": BertForSequenceClassification(BertConfig(vocab_size=vocab_size, num_labels=10, **sizes)),
    }


def main() -> None:
    """Print a line a form: its size, and milliseconds at 16, 128 and 512 tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    tokenizer = AutoTokenizer.from_pretrained(parser.parse_args().tokenizer)
    clocks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, OnnxProcess() as process:
        for name, model in models(len(tokenizer)).items():
            path = Path(folder, name)
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            student, graph = read_student(path), path / "model.onnx"
            write_graph(student.answers, graph)
            clocks[f"{name}, torch"] = timed(student.answers.answer)
            clocks[f"{name}, ONNX"] = lambda batch, graph=graph: process.answer(graph, batch)[1]
            print(name, {key: f"{value:,.0f}" for key, value in model_size(model).items()})
        for name, found in measure_latency(clocks, len(tokenizer), 512).items():
            print(name, {length: round(value, 2) for length, value in found.items()})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
