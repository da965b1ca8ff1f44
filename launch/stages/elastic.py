"""What the stage `elastic` leaves behind: a model of each size, and a table of their scores and speed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from corpus.vocabulary.saved import save_tokenizer
from pretrain.durable import new_folder, write_durably
from pretrain.elastic.size import Size
from pretrain.elastic.slices import cut_model
from pretrain.models.pretrained import load_pretrained
from pretrain.models.shape import EncoderShape
from pretrain.probes.cost import compare_cost
from pretrain.progress import Progress

_TIMED_TEXTS = 32  # of the development examples


@Progress("publishing the sizes")
def publish_sizes(
    folder: Path, model: Any, tokenizer_path: str, scores: Mapping[str, Mapping[str, float]], scored_by: str,
    texts: Sequence[str], max_tokens: int,
) -> None:  # fmt: skip
    """Write sizes/2x600 and so on, models as transformers loads them, and sizes.json and sizes.md.

    Args:
        folder: of the stage.
        model: the largest.
        scores: of every size by its name, the largest first.
        scored_by: the metric of the task that the table shows.
        texts: on which the encoders are timed, on one thread.
    """
    tokenizer = load_pretrained(AutoTokenizer, tokenizer_path)
    models = {name: cut_model(model, Size.parse(name)).cpu().eval() for name in scores}
    for name, one in models.items():
        with new_folder(folder / "sizes" / name, replace=True) as partial:
            one.save_pretrained(partial)
            save_tokenizer(tokenizer, partial, EncoderShape.of(one.config).max_row_tokens)
    encoders = {name: (one.base_model, tokenizer) for name, one in models.items()}
    costs = compare_cost(encoders, texts[:_TIMED_TEXTS], max_tokens=max_tokens, num_rounds=2)
    rows = {name: {"scores": dict(scores[name]), **costs[name]} for name in scores}
    write_durably(folder / "sizes.json", json.dumps(rows, indent=2))
    write_durably(folder / "sizes.md", sizes_table(rows, scored_by))


def sizes_table(rows: Mapping[str, Mapping[str, Any]], scored_by: str) -> str:
    """Return Markdown of every size's score, parameters and speed."""
    lines = [
        f"| layers x feed-forward | {scored_by} | million parameters | ms a text | texts/s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['scores'][scored_by]:.4f} | {row['num_parameters'] / 1e6:.1f} | "
        f"{row['milliseconds_per_text']:.1f} | {row['texts_per_second']:,.0f} |"
        for name, row in rows.items()
    ]
    return "\n".join([*lines, "", "Encoders on one CPU thread, float32; one text at a time, and batches of 32.", ""])
