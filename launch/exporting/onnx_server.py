"""A process that answers by onnxruntime, with nothing of ours, torch or transformers: what a service would run.

    python -P onnx_server.py GRAPH ...

A message either way is a line of JSON, then the bytes of its arrays. Asked {"graph": i, "arrays": [...]} it answers
{"seconds": s, "arrays": [...]}; asked {"texts": [...], "tokenizer": path, "max_tokens": n}, {"rows": [...]}.
"""

import json
import sys
import time
from typing import Any, BinaryIO

import numpy as np

Message = dict[str, Any]


def send(stream: BinaryIO, message: Message, arrays: dict[str, np.ndarray]) -> None:
    """Write a message and its named arrays."""
    heads = [[name, str(array.dtype), array.shape] for name, array in arrays.items()]
    stream.write(json.dumps(message | {"arrays": heads}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Message, dict[str, np.ndarray]] | None:
    """Read a message and its arrays; None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    message, arrays = json.loads(line), {}
    for name, dtype, shape in message.pop("arrays"):
        empty = np.empty(shape, dtype)
        arrays[name] = np.frombuffer(stream.read(empty.nbytes), dtype).reshape(shape)
    return message, arrays


def open_graph(path: str) -> Any:
    """Open a graph for one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def tokenize(texts: list[str], path: str, max_tokens: int) -> list[list[int]]:
    """Return the ids of texts by the library tokenizers alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def main() -> None:
    """Answer until the other end closes the stream."""
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    graphs: dict[str, Any] = {}
    while (received := receive(asked)) is not None:
        message, arrays = received
        if "texts" in message:
            send(answers, {"rows": tokenize(message["texts"], message["tokenizer"], message["max_tokens"])}, {})
            continue
        start = time.perf_counter()
        if message["graph"] not in graphs:
            graphs[message["graph"]] = open_graph(message["graph"])
        graph = graphs[message["graph"]]
        found = graph.run(None, {one.name: arrays[one.name] for one in graph.get_inputs()})
        seconds = time.perf_counter() - start
        foreign = [name for name in ("torch", "transformers", "launch") if name in sys.modules]
        outputs = {one.name: np.asarray(array) for one, array in zip(graph.get_outputs(), found, strict=True)}
        send(answers, {"seconds": seconds, "foreign": foreign}, outputs)


if __name__ == "__main__":
    main()
