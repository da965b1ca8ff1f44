"""The model card of a published student: what the run knows, nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.checkpoints.checkpoint import TrainingState
from pretrain.training.metrics import loss_terms

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CARD = """---
language: zh
library_name: transformers
pipeline_tag: {pipeline}
{metadata}tags: [{tags}]
---

# {name}

A general {kind}: {num_layers} layers x {hidden_size}, {num_attention_heads} heads, feed-forward {intermediate_size},
{origin} unlabelled text. It has not been fine-tuned for any task.

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("FOLDER"), AutoModel.from_pretrained("FOLDER")
batch = tokenizer(["今天天气不错"], padding=True, truncation=True, max_length={row_tokens}, return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch).last_hidden_state  # [texts, tokens, {hidden_size}]
mask = batch["attention_mask"].unsqueeze(-1)
vectors = (hidden * mask).sum(1) / mask.sum(1)  # the mean over real tokens
```
{advice}{head}
| | |
|---|---|
| teacher | {teacher} |
| objective | {objective} |
| start | {start} |
| licence of the weights | {licence} |
| corpus | {corpus_tokens:,} tokens, {corpus_documents:,} documents, fingerprint {corpus_fingerprint} |
| sources and licences | {sources} |
| steps | {step:,} of {total_steps:,}, {rows_per_step} rows of {row_tokens} tokens each |
| tokens seen | {tokens:,} ({epochs:.2f} times the corpus) |
| training time | {hours:.2f} hours |
| computed on | {ran_on} |
| optimizer | AdamW, peak learning rate {lr:g}, betas {betas}, weight decay {weight_decay} on linear layers |

## Losses (mean over the last logged steps)

{losses}

## What training did not reach

{unreached}
Positions beyond {row_tokens} tokens were never seen in training.
"""

HEAD = """
`AutoModelForMaskedLM` loads it with its masked-language head, which is tied to the word embeddings.
"""


def model_card(
    name: str,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    state: TrainingState,
    metrics: Iterable[Mapping[str, float]],
    teacher_name: str | None = None,
    licence: str | None = None,
) -> str:
    """Markdown with the metadata block that model hubs read.

    Args:
        config: the run's resolved config; facts: its run.json; metrics: its logged steps, oldest first.
        teacher_name: what readers elsewhere know the teacher by, a hub id, in place of its path.
        licence: of the student's weights, by the hub's names.
    """
    student = next(one for one in config["students"] if one["name"] == name)
    corpus, teacher = facts["corpus"], facts["teacher"]
    last = [line for line in metrics if line["step"] <= state.step][-1]
    init, types = student["init"], [objective["type"] for objective in student["objective"]]
    unreached = facts["unreached_parameters"][name]
    teacher_path = teacher and (teacher_name or teacher["path"])
    is_id = bool(teacher_path and _HUB_ID.fullmatch(teacher_path) and not Path(teacher_path).exists())
    metadata = {"base_model": teacher_path if is_id else None, "license": licence}
    sources = [f"{source['name']} ({source['licence']})" for source in corpus["sources"]]
    sources += [f"and those of `{init['student']}`, see its card"] if init["student"] else []
    return CARD.format(
        **{key: student[key] for key in ("num_layers", "hidden_size", "num_attention_heads", "intermediate_size")},
        **{key: student["optimizer"][key] for key in ("lr", "betas", "weight_decay")},
        name=name,
        tags=", ".join(name.replace("_", "-") for name in [*(["general-distillation"] if teacher else []), *types]),
        metadata="".join(f"{key}: {value}\n" for key, value in metadata.items() if value),
        pipeline="fill-mask" if {"mlm", "distilbert"} & set(types) else "feature-extraction",
        advice=_advice(unreached),
        licence=licence or "not stated: the terms of the teacher and of the sources below apply",
        kind="student" if teacher else "encoder",
        origin=f"distilled from `{teacher_path}` on" if teacher else "trained without a teacher on",
        head=HEAD if {"mlm", "distilbert"} & set(types) else "",
        teacher=f"`{teacher_path}`, weights {teacher['fingerprint']}" if teacher else "none",
        objective="; ".join(_objective(objective) for objective in student["objective"]),
        start=_start(init),
        corpus_tokens=corpus["tokens"],
        corpus_documents=corpus["documents"],
        corpus_fingerprint=corpus["fingerprint"],
        sources="; ".join(sources),
        step=state.step,
        total_steps=config["training"]["total_steps"],
        rows_per_step=config["deepspeed"]["train_batch_size"],
        row_tokens=config["corpus"]["row_tokens"],
        tokens=state.tokens,
        epochs=state.tokens / max(1, corpus["tokens"]),
        hours=state.seconds / 3600,
        ran_on=_ran_on([one for one in facts["ran_on"] if one["step"] < max(1, state.step)]),
        losses=_losses(name, last),
        unreached=_unreached(unreached, init),
    )


def _ran_on(machines: Sequence[Mapping[str, Any]]) -> str:
    """Devices and precisions, each from the step on at which it was taken."""
    parts = []
    for index, one in enumerate(machines):
        types = [f"{who} in {one[key]}" for who, key in (("teacher", "teacher"), ("student", "students")) if one[key]]
        parts.append((f"from step {one['step']:,} on " if index else "") + f"{one['device']}: {', '.join(types)}")
    return "; ".join(parts) or "not recorded"


def _start(init: Mapping[str, Any]) -> str:
    if init["student"]:
        return f"all weights: those of `{init['student']}`"
    embeddings, layers = "random", init["layers"]
    if init["embeddings"] == "teacher":
        embeddings = "the teacher's, on principal components where widths differ"
    if isinstance(layers, list):
        return f"embeddings: {embeddings}; layers: the teacher's {', '.join(map(str, layers))}"
    names = {"scratch": "random", "uniform": "the teacher's, evenly spread", "last": "the teacher's last ones"}
    return f"embeddings: {embeddings}; layers: {names[layers]}"


def _objective(objective: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in objective.items() if key != "type" and value is not None)
    return f"`{objective['type']}` ({settings})"


def _losses(name: str, last: Mapping[str, float]) -> str:
    rows = [f"| {term} | {value:.4f} |" for term, value in loss_terms(last, name).items()]
    return "\n".join(["| term | value |", "|---|---|", *rows])


def _advice(unreached: list[str]) -> str:
    advice = ["Texts had no prefix in training."]
    if any(name.startswith("pooler.") for name in unreached):
        advice.append("There is no trained pooler: `pooler_output` is of weights drawn as the model is loaded.")
    if any(not name.startswith("pooler.") for name in unreached):
        advice.append("Its last layer was not trained as a whole (below): fine-tune it before its vectors are used.")
    return "\n" + " ".join(advice) + "\n"


def _unreached(names: list[str], init: Mapping[str, Any]) -> str:
    if not names:
        return "Every parameter was trained."
    start = "as initialised (the teacher's; a pooler: not here, and random when loaded)"
    if init["student"]:
        start = "as in the student that this one began as (a pooler: not here, and random when loaded)"
    elif init["layers"] == "scratch":
        start = "as initialised (random)"
    listed = "\n".join(f"- `{name}`" for name in names)
    head = f"No objective reads these; they are {start}, kept out of the optimizer, and fine-tuning trains them:"
    return f"{head}\n\n{listed}\n"
