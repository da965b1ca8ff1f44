"""A published student: an ordinary Hugging Face folder, written aside, checked against the live student, renamed."""

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from corpus.vocabulary.saved import save_tokenizer
from corpus.vocabulary.tokenizer import load_tokenizer
from launch.distillation.config import RunConfig, read_run_config
from launch.distillation.run_facts import read_facts
from launch.publishing.making import public_name, teacher_place
from launch.publishing.model_card import Measured, RunRecord, model_card
from launch.publishing.sentence_folder import prompts_of_students, save_sentence_modules
from launch.publishing.sizes import choose_size, record_of, settings_of, sizes_of
from pretrain.checkpoints.checkpoint import Checkpoints, read_state
from pretrain.device import cpu_name
from pretrain.durable import damage, new_folder
from pretrain.elastic.size import Size
from pretrain.elastic.slices import cut_model
from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.family import family_of
from pretrain.models.pretrained import load_encoder
from pretrain.models.shape import EncoderShape
from pretrain.models.vocabulary_head import auto_class_of
from pretrain.probes.cost import compare_cost
from pretrain.progress import Progress
from pretrain.students.config import StudentConfig
from pretrain.training.metrics import read_metrics

TOLERANCE = 1e-3  # the live student may have answered on a GPU; hidden states are of the order of 1
_TIMED_TEXT, _TIMED_TOKENS, _TIMED_ROUNDS = "今天天气不错，我们去公园散步。" * 32, 64, 2


def choose_checkpoint(run: Path, step: int | None) -> Path:
    """The newest whole checkpoint of a run, or that of a step; ValueError says which steps there are."""
    checkpoints = Checkpoints(run, keep=1)
    chosen = checkpoints.newest() if step is None else checkpoints.folder / f"step_{step}"
    if chosen is None or not (chosen / "state.json").is_file():
        there = ", ".join(path.name.removeprefix("step_") for path in checkpoints.all()) or "none"
        raise ValueError(f"{run}: no checkpoint{'' if step is None else f' of step {step}'}; steps there: {there}")
    if step is not None and (problem := damage(chosen)):
        raise ValueError(problem)
    return chosen


@Progress("publishing")
def publish(
    run: Path,
    student: str,
    output: Path,
    step: int | None = None,
    teacher_name: str | None = None,
    licence: str | None = None,
    size: Size | None = None,
) -> float:
    """Write the published folder and return the largest difference to the live student's fixed answers.

    Args:
        size: of an elastic student, the largest by default.
    """
    if not (run / "config.json").is_file() or not (run / "run.json").is_file():
        raise ValueError(f"{run}: not a run folder (no config.json and run.json)")
    if output.exists():
        raise ValueError(f"{output}: is already there; publish to a new folder")
    checkpoint = choose_checkpoint(run, step)
    if not (checkpoint / student / "model").is_dir():
        names = ", ".join(sorted(path.parent.name for path in checkpoint.glob("*/model")))
        raise ValueError(f"{run}: no student {student!r}; students: {names}")
    record, size = read_record(run, student, checkpoint), choose_size(run, student, size)
    if teacher_name and not record.facts["teacher"]:
        raise ValueError(f"{run}: was trained without a teacher, so --teacher-name {teacher_name} says nothing")
    with new_folder(output) as partial:
        unreached = record.facts["unreached_parameters"][student]
        whole, cut = save_model(checkpoint / student / "model", run / "tokenizer", unreached, partial, size)
        if size:
            record = record_of(record, student, sizes_of(run, student), size, whole, cut)
        own = save_settings(run, student, partial, teacher_name, size)
        row_tokens, training = record.config["corpus"]["row_tokens"], checkpoint / student / "training.safetensors"
        prompts = prompts_of_students(record.config["teacher"], record.facts["teacher"])
        is_inner = size is not None and size.num_layers < own.num_layers
        trained = f"inner.objectives.{size.num_layers}" if size and is_inner else "objectives"
        save_sentence_modules(own.objective, own.hidden_size, row_tokens, training, partial, prompts, trained)
        measured = measure(partial, row_tokens)
        options = load_options(partial)
        card = model_card(student, record, measured, output.name, options, teacher_name, licence)
        (partial / "README.md").write_text(card, encoding="utf-8")
        inner = str(size) if size and size != Size(own.num_layers, own.intermediate_size) else None
        difference = difference_to_live(partial, checkpoint / student / "outputs.safetensors", inner)
        if not difference <= TOLERANCE:
            raise ValueError(f"{output}: not published: outputs differ from the live student's by {difference:.2g}")
    return difference


def save_model(
    model_folder: Path, tokenizer_folder: Path, unreached: list[str], folder: Path, size: Size | None = None
) -> tuple[HuggingFaceModel, HuggingFaceModel]:
    """Write model and tokenizer, without a pooler that no objective reached: it is random numbers.

    Return the encoders of the whole student and of what was written: the size of an elastic one, or the whole again.
    """
    whole = auto_class_of(model_folder).from_pretrained(model_folder)
    model = cut_model(whole, size) if size else whole
    drawn = {name for name in unreached if name.startswith("pooler.")}
    model.save_pretrained(folder, state_dict={n: w for n, w in model.state_dict().items() if n not in drawn})
    save_tokenizer(
        AutoTokenizer.from_pretrained(tokenizer_folder), folder, EncoderShape.of(model.config).max_row_tokens
    )
    return whole.base_model, model.base_model


def save_settings(
    run: Path, student: str, folder: Path, teacher_name: str | None = None, size: Size | None = None
) -> StudentConfig:
    """Write distillation.json, which task distillation compares its own teacher with, and training.json, which trains
    this student again. Return the student's configuration."""
    config, facts = read_run_config(run / "config.json"), read_facts(run / "run.json")
    own = next(one for one in config.students if one.name == student)
    made = own.model_dump(mode="json") | {"teacher": facts.teacher.model_dump() if facts.teacher else None}
    made = settings_of(made, size) if size else made
    (folder / "distillation.json").write_text(json.dumps(made, ensure_ascii=False, indent=2), encoding="utf-8")
    again = training_config(config, student, teacher_name)
    (folder / "training.json").write_text(again.model_dump_json(indent=2), encoding="utf-8")
    return own


def training_config(config: RunConfig, student: str, teacher_name: str | None = None) -> RunConfig:
    """Return the run's configuration for one student alone, without this machine's paths and without the probe.

    Students of one run do not depend on each other, and a probe changes nothing of them.
    """
    own = next(one for one in config.students if one.name == student)
    if own.init.student:
        init = own.init.model_copy(update={"student": public_name(own.init.student)})
        own = own.model_copy(update={"init": init})
    corpus = config.corpus.model_copy(update={"manifest": "corpus/manifest.json", "cache_folder": None})
    teacher = config.teacher
    if teacher:
        teacher = teacher.model_copy(update={"path": teacher_place(teacher.path, teacher_name), "vectors": None})
    return config.model_copy(update={"corpus": corpus, "teacher": teacher, "students": [own], "probe": None})


def read_record(run: Path, student: str, checkpoint: Path) -> RunRecord:
    """Return what the run knows of a student up to a checkpoint.

    Raise ValueError naming the file of the run that is damaged, or does not know the student.
    """
    config, facts = read_run_config(run / "config.json"), read_facts(run / "run.json")
    state = read_state(checkpoint)
    metrics = [line for line in read_metrics(run) if line["step"] <= state.step]
    own = [one for one in config.students if one.name == student]
    if not own:
        raise ValueError(f"{run / 'config.json'}: knows no student {student}")
    if student not in facts.unreached_parameters:
        raise ValueError(f"{run / 'run.json'}: unreached_parameters: knows no student {student}")
    if not any(f"{student}/loss" in line for line in metrics):
        raise ValueError(
            f"{run / 'metrics.jsonl'}: no step was logged up to {state.step}, that of {checkpoint / 'state.json'}"
        )
    described = " ".join(type(one).__doc__ or "" for one in own[0].objective)
    papers = list(dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{4,5})", described)))
    return RunRecord(config.model_dump(mode="json"), facts.model_dump(), state, metrics, papers)


def measure(folder: Path, row_tokens: int) -> Measured:
    """Load the encoder as its readers will, without a pooler, and measure its sizes and its speed on this machine."""
    encoder, tokenizer = load_encoder(str(folder)).eval(), load_tokenizer(str(folder))
    most = min(_TIMED_TOKENS, row_tokens)
    num_tokens = len(tokenizer(_TIMED_TEXT, truncation=True, max_length=most)["input_ids"])
    models = {"student": (encoder, tokenizer)}
    costs = compare_cost(models, [_TIMED_TEXT], max_tokens=most, num_rounds=_TIMED_ROUNDS)["student"]
    return Measured(
        model_type=encoder.config.model_type,
        num_parameters=costs["num_parameters"],
        num_non_embedding=costs["num_non_embedding"],
        file_megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        milliseconds_per_text=costs["milliseconds_per_text"],
        texts_per_second=costs["texts_per_second"],
        num_tokens=num_tokens,
        processor=cpu_name(),
    )


def load_options(folder: Path) -> str:
    """Return the argument with which AutoModel leaves out a pooler that the folder does not hold.

    Without it transformers draws one at random and prints a table of missing weights. Empty where the folder holds a
    pooler, is none with safetensors, or is of a family that has no poolers.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file() or not family_of(AutoConfig.from_pretrained(folder).model_type).has_pooler:
        return ""
    with safe_open(weights, framework="pt") as file:
        has_pooler = any("pooler." in name for name in file.keys())  # noqa: SIM118  (no mapping)
    return "" if has_pooler else "add_pooling_layer=False"


@torch.no_grad()
def difference_to_live(folder: Path, recorded: Path, size: str | None = None) -> float:
    """Largest absolute difference between a published folder's answers and those recorded while training.

    Args:
        size: of an elastic student, unless it is the whole. Its masked-language head is the whole's.
    """
    live = load_file(recorded)
    if size:
        live = {"input_ids": live["input_ids"], "last_hidden_state": live[f"{size}/last_hidden_state"]}
    model = auto_class_of(folder).from_pretrained(folder).eval()
    output = model(input_ids=live["input_ids"], output_hidden_states=True)
    differences = [(output.hidden_states[-1] - live["last_hidden_state"]).abs().max()]
    if "logits" in live:
        logits = output.prediction_logits if "prediction_logits" in output else output.logits
        differences.append((logits[:, -1] - live["logits"]).abs().max())
    return float(max(differences))
