"""The other end of onnx_server.py: graphs asked in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launch.exporting.onnx_server import Message, receive, send

_SERVER = Path(__file__).with_name("onnx_server.py")


class OnnxProcess:
    """A process that has onnxruntime, numpy and tokenizers alone. Use it in a `with` block."""

    def __init__(self) -> None:
        self._said = TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-P", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def __enter__(self) -> "OnnxProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def answer(self, graph: Path, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """Return a graph's outputs by name for the inputs of a batch, and the seconds that it took.

        The first time, these include opening the graph. Raise ValueError if it cannot be opened or asked.
        """
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        message, outputs = self._ask({"graph": str(graph)}, arrays, str(graph))
        if message["foreign"]:
            raise ValueError(f"{graph}: was to be asked without {', '.join(message['foreign'])}, which is loaded there")
        return {name: torch.from_numpy(array.copy()) for name, array in outputs.items()}, message["seconds"]

    def tokenize(self, folder: Path, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return the ids of texts by the folder's tokenizer.json. Raise ValueError if that cannot be read."""
        path = str(folder / "tokenizer.json")
        message, _ = self._ask({"texts": list(texts), "tokenizer": path, "max_tokens": max_tokens}, {}, path)
        return message["rows"]

    def _ask(self, message: Message, arrays: dict[str, np.ndarray], what: str) -> tuple[Message, dict[str, Any]]:
        assert self._process.stdin and self._process.stdout
        try:
            send(self._process.stdin, message, arrays)  # type: ignore[arg-type]
            received = receive(self._process.stdout)  # type: ignore[arg-type]
        except (BrokenPipeError, ValueError):
            received = None
        if received is None:
            exit_code = self._process.wait()
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines() or [f"exit code {exit_code}"]
            raise ValueError(f"{what}: cannot be answered with outside this process: {lines[-1]}")
        return received
