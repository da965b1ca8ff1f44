"""The model card of a published student: what the run knows and publishing measured, nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.command_line.wording import duration
from launch.publishing.card_scores import describe_scores
from launch.publishing.making import (
    describe_heads,
    describe_machines,
    describe_objective,
    describe_rounding,
    describe_size,
    describe_start,
    describe_unreached,
    describe_vectors,
    is_hub_id,
    losses_table,
    public_name,
    share_of_corpus,
    teacher_place,
)
from launch.publishing.sentence_folder import prompts_of_students
from pretrain.checkpoints.checkpoint import TrainingState

_FEW_TOKENS = 10_000_000  # general students usually read a thousand times as many
CARD = """---
language: zh
library_name: transformers
pipeline_tag: {pipeline}
{metadata}tags: [{tags}]
---

# {title}

A small Chinese text encoder: it turns text into vectors, for search, clustering, deduplication, and as the start of
fine-tuning on a task. A general {kind},
{origin} unlabelled text; it has not been fine-tuned for any task.

| | |
|---|---|
| parameters | {num_parameters:.1f} million, {num_non_embedding:.1f} million of them outside the embeddings |
| shape | {family}: {num_layers} layers x {hidden_size}, {num_attention_heads} heads, feed-forward {intermediate_size} |
| size on disk | {file_megabytes:.1f} MB of weights (float32) |
| speed | {speed} |
{scores}

## What it must not be used for

{limits}

## How to load it

```python
import torch
from transformers import AutoModel, AutoTokenizer

folder = "{folder}"  # the path of this folder, or its name on a hub
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder{load_options})
batch = tokenizer(["今天天气不错"], padding=True, truncation=True, max_length={row_tokens}, return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch).last_hidden_state  # [texts, tokens, {hidden_size}]
mask = batch["attention_mask"].unsqueeze(-1)
vectors = (hidden * mask).sum(1) / mask.sum(1)  # the mean over real tokens
```
{advice}
## How it was made

| | |
|---|---|
| teacher | {teacher} |
| objective | {objective} |
| start | {start} |
{elastic}| licence of the weights | {licence} |
| corpus | {corpus_tokens:,} tokens, {corpus_documents:,} documents, fingerprint {corpus_fingerprint} |
| sources and licences | {sources} |
| steps | {step:,} of {total_steps:,}, {rows_per_step} rows of {row_tokens} tokens each |
| tokens seen | {tokens:,} ({epochs}) |
| training time | {training_time} |
| computed on | {ran_on} |
| optimizer | AdamW, peak learning rate {lr:g}, betas {betas}, weight decay {weight_decay} on linear layers |

To make it again with general-distillation, from the configuration in this folder:

```bash
deepspeed launch/gd.py --config {folder}/training.json --run runs/{name}
python launch/publish.py --run runs/{name} --student {name}{step_option} --output {output}
```

`training.json` expects the corpus{expected}; `--set` points it elsewhere. Other
machines round differently, so their weights are close to these, not the same.

## Losses (mean over the last logged steps)

{losses}

## What training did not reach

{unreached}
Positions beyond {row_tokens} tokens were never seen in training.

## How to cite

> {citation}

{papers}"""

HEAD = """
`AutoModelForMaskedLM` loads it with its masked-language head, which is tied to the word embeddings.
"""


@dataclass(frozen=True)
class RunRecord:
    """What a run knows of one student: its resolved config, its run.json, the published state, its logged steps up to
    that state (oldest first), the papers of its objectives (arXiv numbers), and the sizes of an elastic student, with
    that which the rest is about."""

    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    state: TrainingState
    metrics: Sequence[Mapping[str, float]]
    papers: Sequence[str] = ()
    sizes: Sequence[str] = ()
    size: str = ""


@dataclass(frozen=True)
class Measured:
    """What publishing measures: sizes, and the speed on texts of `num_tokens` tokens, float32 on one thread."""

    model_type: str
    num_parameters: float
    num_non_embedding: float
    file_megabytes: float
    milliseconds_per_text: float
    texts_per_second: float
    num_tokens: int
    processor: str


def model_card(
    name: str,
    record: RunRecord,
    measured: Measured,
    folder: str,
    load_options: str = "",
    teacher_name: str | None = None,
    licence: str | None = None,
) -> str:
    """Return Markdown with the metadata block that model hubs read.

    Args:
        folder: the name of the published folder.
        load_options: further arguments of `AutoModel.from_pretrained`, as they are typed.
        teacher_name: what readers elsewhere know the teacher by, a hub id, in place of its path.
        licence: of the student's weights, by the hub's names.
    """
    config, facts, state = record.config, record.facts, record.state
    student = next(one for one in config["students"] if one["name"] == name)
    corpus, teacher = facts["corpus"], facts["teacher"]
    init, types = student["init"], [objective["type"] for objective in student["objective"]]
    unreached = facts["unreached_parameters"][name]
    has_head = bool({"mlm", "distilbert"} & set(types))
    teacher_is = teacher and (teacher_name or public_name(teacher["path"]))
    metadata = {"base_model": teacher_is if teacher and is_hub_id(teacher_is) else None, "license": licence}
    sources = [f"{source['name']} ({source['licence']})" for source in corpus["sources"]]
    sources += [f"and those of `{public_name(init['student'])}`, see its card"] if init["student"] else []
    return CARD.format(
        **{key: student[key] for key in ("num_layers", "hidden_size", "num_attention_heads", "intermediate_size")},
        **{key: student["optimizer"][key] for key in ("lr", "betas", "weight_decay")},
        name=name,
        folder=folder,
        load_options=f", {load_options}" if load_options else "",
        tags=", ".join(name.replace("_", "-") for name in [*(["general-distillation"] if teacher else []), *types]),
        metadata="".join(f"{key}: {value}\n" for key, value in metadata.items() if value),
        pipeline="fill-mask" if has_head else "sentence-similarity" if "sentence" in types else "feature-extraction",
        family=measured.model_type,
        num_parameters=measured.num_parameters / 1e6,
        num_non_embedding=measured.num_non_embedding / 1e6,
        file_megabytes=measured.file_megabytes,
        speed=_speed(measured),
        scores="\n".join(describe_scores(name, record.facts, record.metrics, record.state.step)),
        limits="\n".join(f"- {limit}" for limit in _limits(record, unreached, has_head)),
        advice=_advice(bool(load_options), has_head, prompts_of_students(config["teacher"], teacher))
        + describe_heads(types, measured.model_type, has_head)
        + describe_vectors(student["objective"], teacher_is),
        licence=licence or "not stated: the terms of the teacher and of the sources below apply",
        kind="student" if teacher else "encoder",
        origin=f"distilled from `{teacher_is}` on" if teacher else "trained without a teacher on",
        teacher=f"`{teacher_is}`, weights {teacher['fingerprint']}" if teacher else "none",
        objective="; ".join(describe_objective(objective) for objective in student["objective"])
        + describe_rounding(student["quantization"]),
        start=describe_start(init),
        corpus_tokens=corpus["tokens"],
        corpus_documents=corpus["documents"],
        corpus_fingerprint=corpus["fingerprint"],
        sources="; ".join(sources),
        step=state.step,
        step_option=(f" --step {state.step}" if state.step < config["training"]["total_steps"] else "")
        + (f" --size {record.size}" if record.size else ""),
        title=f"{name} {record.size}".strip(),
        output=f"students/{name}" + (f"/{record.size}" if record.size else ""),
        elastic=describe_size(name, record.size, record.sizes),
        total_steps=config["training"]["total_steps"],
        rows_per_step=config["deepspeed"]["train_batch_size"],
        row_tokens=config["corpus"]["row_tokens"],
        tokens=state.tokens,
        epochs=share_of_corpus(state.tokens / max(1, corpus["tokens"])),
        training_time=duration(state.seconds),
        ran_on=describe_machines([one for one in facts["ran_on"] if one["step"] < max(1, state.step)]),
        expected=_expected(teacher and teacher_place(teacher["path"], teacher_name)),
        losses=losses_table(name, [line for line in record.metrics if f"{name}/loss" in line][-1]),
        unreached=describe_unreached(unreached, init),
        citation=_citation(
            name, measured, types, teacher and f"{teacher_is} (weights {teacher['fingerprint']})", corpus
        ),
        papers=_papers(record.papers),
    )


def _speed(measured: Measured) -> str:
    texts = f"{measured.texts_per_second:,.0f} texts a second in batches of 32"
    alone = f"{measured.milliseconds_per_text:.1f} ms for one text"
    where = f"texts of {measured.num_tokens} tokens, float32, one thread of {measured.processor}"
    return f"{texts}, {alone} ({where})"


def _limits(record: RunRecord, unreached: Sequence[str], has_head: bool) -> Iterator[str]:
    """What the student must not be used for."""
    row_tokens, tokens = record.config["corpus"]["row_tokens"], record.state.tokens
    if tokens < _FEW_TOKENS:
        yield (
            f"Anything but trying out how students are made: it has read {tokens:,} tokens, where general students "
            "usually read billions."
        )
    if any(not name.startswith("pooler.") for name in unreached):
        yield "Its vectors, before fine-tuning: its last layer was not trained as a whole (below)."
    yield "Labels or answers without fine-tuning: it gives vectors and knows no task."
    if not has_head:
        yield "Filling in or writing text: it has no head for words."
    yield f"Texts of more than {row_tokens} tokens, or in languages other than those of its corpus."
    yield "Decisions about people: it has the biases of its teacher and its corpus, and nobody has measured them."


def _advice(without_pooler: bool, has_head: bool, prompts: Mapping[str, str]) -> str:
    advice = [f"In training {prompt!r} stood before every text." for prompt in prompts.values()]
    advice = advice or ["Texts had no prefix in training."]
    if without_pooler:
        advice.append(
            "There is no trained pooler, so the model is loaded without one: it would be drawn at random. Models for "
            "tasks (`AutoModelForSequenceClassification`) draw their own, and fine-tuning trains it."
        )
    return f"\n{' '.join(advice)}\n{HEAD if has_head else ''}"


def _expected(teacher: str | None) -> str:
    corpus = " of this fingerprint at `corpus/manifest.json`"
    return f"{corpus} and the teacher at `{teacher}`" if teacher else corpus


def _citation(
    name: str, measured: Measured, types: Sequence[str], teacher: str | None, corpus: Mapping[str, Any]
) -> str:
    made = f"distilled from {teacher}" if teacher else "trained without a teacher"
    return (
        f"{name}, a Chinese encoder of {measured.num_parameters / 1e6:.1f} million parameters, {made} by "
        f"{', '.join(types)} on the corpus {corpus['fingerprint'][:16]}."
    )


def _papers(papers: Sequence[str]) -> str:
    links = "\n".join(f"- https://arxiv.org/abs/{number}" for number in papers)
    return f"The papers of its objectives, beside those of its teacher:\n\n{links}\n" if papers else ""
