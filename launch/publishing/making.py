"""How a student was made, in the words of its card."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.training.metrics import loss_terms

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def public_name(path: str) -> str:
    """Return a model's hub id as it is, and only the last part of a local path: the rest means nothing elsewhere."""
    return path if is_hub_id(path) and not Path(path).exists() else Path(path).name


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a model hub's: owner/name."""
    return bool(_HUB_ID.fullmatch(name))


def teacher_place(path: str, teacher_name: str | None) -> str:
    """Return where training.json looks for the teacher: on a hub where it has a name there, else in a folder here."""
    return teacher_name if teacher_name and is_hub_id(teacher_name) else public_name(path)


def share_of_corpus(epochs: float) -> str:
    """Return `2.9 % of the corpus`, or `2.5 times the corpus`."""
    return f"{100 * epochs:.2g} % of the corpus" if epochs < 0.995 else f"{epochs:.1f} times the corpus"


def describe_machines(machines: Sequence[Mapping[str, Any]]) -> str:
    """Devices and precisions, each from the step on at which it was taken."""
    parts = []
    for index, one in enumerate(machines):
        types = [f"{who} in {one[key]}" for who, key in (("teacher", "teacher"), ("student", "students")) if one[key]]
        parts.append((f"from step {one['step']:,} on " if index else "") + f"{one['device']}: {', '.join(types)}")
    return "; ".join(parts) or "not recorded"


def describe_start(init: Mapping[str, Any]) -> str:
    """What the weights were before the first step."""
    if init["student"]:
        return f"all weights: those of `{public_name(init['student'])}`"
    embeddings, layers = "random", init["layers"]
    if init["embeddings"] == "teacher":
        kept = "principal components" if init["channels"] == "components" else "the coordinates largest on text"
        embeddings = f"the teacher's, on {kept} where widths differ"
    if isinstance(layers, list):
        return f"embeddings: {embeddings}; layers: the teacher's {', '.join(map(str, layers))}"
    names = {
        "scratch": "random",
        "uniform": "the teacher's, evenly spread",
        "last": "the teacher's last ones",
        "importance": "those of the teacher that change their input most",
    }
    return f"embeddings: {embeddings}; layers: {names[layers]}"


def describe_size(name: str, size: str, sizes: Sequence[str]) -> str:
    """A row of the table on how one size of an elastic student was made; empty for other students."""
    if not size:
        return ""
    others = ", ".join(one for one in sizes if one != size) or "none"
    return (
        f"| size | {size} (layers x feed-forward) of the elastic student {name}: one run trained this and {others} as "
        "parts of one set of weights, from the same batches |\n"
    )


def describe_objective(objective: Mapping[str, Any]) -> str:
    """The objective's type and every setting of it."""
    settings = ", ".join(f"{key} {value}" for key, value in objective.items() if key != "type" and value is not None)
    return f"`{objective['type']}` ({settings})"


def describe_rounding(quantization: Mapping[str, Any] | None) -> str:
    """With which arithmetic of an exported graph the last part of the run was computed; empty if with none."""
    if quantization is None:
        return ""
    share = f"after {100 * quantization['begin']:g} % of the steps" if quantization["begin"] else "in all steps"
    return f"; {share} as an int{quantization['weights']} graph of launch/export.py computes"


def describe_vectors(objectives: Sequence[Mapping[str, Any]], teacher: str | None) -> str:
    """Markdown on the vectors of a student that was trained for them; empty for others."""
    own = next((one for one in objectives if one["type"] == "sentence"), None)
    if own is None:
        return ""
    first = f" Its first {', '.join(map(str, own['dims']))} dimensions are vectors too." if own["dims"] else ""
    return (
        "\nIt was trained for vectors of whole texts and opens in sentence-transformers, "
        f"`SentenceTransformer(FOLDER)`: {own['pooling']} pooling, cosine similarity.{first} Its vectors stand in the "
        f"space of `{teacher}`'s, so that documents may be encoded by the teacher and queries by the student.\n"
    )


def describe_heads(types: Sequence[str], model_type: str, has_words: bool) -> str:
    """Markdown on the heads of ELECTRA and ALBERT: the class that loads them, or that they are left out."""
    heads = {
        "replaced_tokens": ("that tells replaced tokens", model_type == "electra", "ElectraForPreTraining"),
        "sentence_order": ("that tells swapped texts", model_type == "albert" and has_words, "AlbertForPreTraining"),
    }
    said = [
        f"`{kind}` loads it with the head {what}." if is_kept else f"The head {what} is not in this folder."
        for name, (what, is_kept, kind) in heads.items()
        if name in types
    ]
    return "\n" + " ".join(said) + "\n" if said else ""


def losses_table(name: str, last: Mapping[str, float]) -> str:
    """Markdown of the student's loss and its terms in one logged step."""
    rows = [f"| {term} | {value:.4f} |" for term, value in loss_terms(last, name).items()]
    return "\n".join(["| term | value |", "|---|---|", *rows])


def describe_unreached(names: list[str], init: Mapping[str, Any]) -> str:
    """Markdown of the parameters that no objective reads, and what they are instead."""
    if not names:
        return "Every parameter was trained."
    start = "as initialised (the teacher's; a pooler is left out of this folder)"
    if init["student"]:
        start = "as in the student that this one began as (a pooler is left out of this folder)"
    elif init["layers"] == "scratch":
        start = "as initialised (random)"
    listed = "\n".join(f"- `{name}`" for name in names)
    head = f"No objective reads these; they are {start}, kept out of the optimizer, and fine-tuning trains them:"
    return f"{head}\n\n{listed}\n"
