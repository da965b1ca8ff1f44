"""Rows of a model card on what the run's probe gave."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pretrain.probes.vectors import NUM_NEIGHBOURS

Row = Callable[[float, float | None, Mapping[str, Any], str], str]


def describe_scores(
    name: str, facts: Mapping[str, Any], metrics: Sequence[Mapping[str, float]], step: int
) -> Iterator[str]:
    """Yield rows of what the run's probe gave last, with what the untrained student and the teacher give."""
    probe, prefix = facts.get("probe") or {}, f"{name}/probe/"
    measures = {key: [line for line in metrics if f"{prefix}{key}" in line] for key in _MEASURES}
    if not any(measures.values()):
        yield "| scores | none: the run that made it measured none |"
    for key, lines in measures.items():
        if lines:
            last, before = lines[-1][f"{prefix}{key}"], lines[0] if lines[0]["step"] == 0 else None
            at = "" if lines[-1]["step"] == step else f" at step {lines[-1]['step']:,.0f}"
            start = before[f"{prefix}{key}"] if before else None
            yield _MEASURES[key](last, start, probe, at)


def _accuracy_row(accuracy: float, start: float | None, probe: Mapping[str, Any], at: str) -> str:
    error = math.sqrt(max(0.0, accuracy * (1 - accuracy)) / max(1, probe.get("num_dev", 0)))
    others = {"the teacher": probe.get("teacher_accuracy"), "always the commonest label": probe.get("chance"),
              "this student before training": start}  # fmt: skip
    compared = "; ".join(f"{who} {100 * share:.1f} %" for who, share in others.items() if share is not None)
    texts = f"{probe.get('num_dev', 0):,} texts of {probe.get('task')}, each labelled by its {NUM_NEIGHBOURS} nearest "
    texts += f"neighbours among {probe.get('num_train', 0):,}"
    return (
        f"| nearest-neighbour accuracy{at} | {100 * accuracy:.1f} ± {100 * error:.1f} % "
        f"({texts}); {compared or 'nothing to compare with'} |"
    )


def _loss_row(loss: float, start: float | None, probe: Mapping[str, Any], at: str) -> str:
    before = "" if start is None else f"; {start:.3f} before training"
    return f"| held-out relation loss{at} | {loss:.3f} (0 is the teacher{before}) |"


def _share_row(what: str, of: str, teacher: str, task: str = "") -> Row:
    """Return what writes the row of a share in percent, of so many documents or pairs, beside the teacher's."""

    def row(share: float, start: float | None, probe: Mapping[str, Any], at: str) -> str:
        others = {"the teacher": probe.get(teacher), "this student before training": start}
        compared = "; ".join(f"{who} {100 * one:.1f} %" for who, one in others.items() if one is not None)
        count = f"{probe.get(f'num_{of}', 0):,} {of}" + (f" of {probe.get(task)}" if task else "")
        return f"| {what}{at} | {100 * share:.1f} % ({count}); {compared or 'nothing to compare with'} |"

    return row


_MEASURES: dict[str, Row] = {
    "neighbour_accuracy": _accuracy_row,
    "retrieval": _share_row("titles that find their text", "documents", "teacher_retrieval"),
    "asymmetric_retrieval": _share_row(
        "titles that find the teacher's vector of their text", "documents", "teacher_retrieval"
    ),
    "similarity_auc": _share_row(
        "similar pairs told by cosine, area under the curve", "pairs", "teacher_similarity_auc", "pairs_task"
    ),
    "heldout_relation_loss": _loss_row,
}
