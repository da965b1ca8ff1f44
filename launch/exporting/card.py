"""What an export measured, on the model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_USE = """
Opened with onnxruntime and tokenizers alone:

```python
import numpy as np, onnxruntime, tokenizers

folder = "{folder}"
tokenizer = tokenizers.Tokenizer.from_file(f"{{folder}}/tokenizer.json")
graph = onnxruntime.InferenceSession(f"{{folder}}/{file}")
row = tokenizer.encode("今天天气不错")
arrays = {{"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}}
answer = graph.run(None, {{one.name: np.array([arrays[one.name]], np.int64) for one in graph.get_inputs()}})
```
"""


def add_to_card(record: Mapping[str, Any], folder: Path, name: str) -> None:
    """Add the section on an export to the README.md of its folder, which need not exist yet."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else f"# {record['student']}\n"
    card = card.partition("\n## As ONNX\n")[0]
    path.write_text(f"{card.rstrip()}\n\n{section(record, name)}", encoding="utf-8")


def section(record: Mapping[str, Any], name: str) -> str:
    """Return Markdown: the table of all forms, how it was measured, what was lost, and how to open a graph."""
    forms = record["forms"]
    file = [one["file"] for one in forms.values()][-1]
    lines = ["## As ONNX", "", table(record), ""]
    lines.append(
        f"Compared on {record['checked_on']} with the model, the graphs in a process that has onnxruntime alone; one "
        f"text at a time on one thread of {record['processor']}, in turns, medians; start is loading and one answer."
    )
    if any("cosine" in one for one in forms.values()):
        lines.append("Cosines are to the model's vectors, all of them centred by the mean of those.")
    if record["lost"]:
        lines += ["", f"**Written although it lost more than is allowed**: {'; '.join(record['lost'])}."]
    return "\n".join([*lines, _USE.format(folder=name, file=file)])


def table(record: Mapping[str, Any]) -> str:
    """Return the Markdown table of an export: a row a form, columns for what was measured of it."""
    forms = record["forms"]
    lengths = [*next(iter(forms.values()))["milliseconds"]]
    heads = ["form", "MB on disk", *(f"ms, {length} tokens" for length in lengths), "start, ms", "largest difference"]
    last = [*forms.values()][-1]
    heads += ["cosine, mean / least"] if "cosine" in last else []
    heads += ["answers changed, %"] if "changed" in last else []
    heads += [f"{record['score']}, %"] if "score" in last else []
    rows = [heads, ["---"] * len(heads)]
    for name, one in forms.items():
        row = [name, f"{one['megabytes']:.1f}", *(f"{one['milliseconds'][length]:.1f}" for length in lengths)]
        row += [f"{one['start_milliseconds']:.0f}", f"{one['difference']:.1e}"]
        row += [f"{one['cosine']:.4f} / {one['least_cosine']:.4f}"] if "cosine" in one else []
        row += [f"{100 * one['changed']:.2f}"] if "changed" in one else []
        row += [f"{100 * one['score']:.1f}"] if "score" in one else []
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
