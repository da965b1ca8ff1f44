"""A published student: an ordinary Hugging Face folder, written aside, checked against the live student, renamed."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from corpus.vocabulary.tokenizer import save_tokenizer
from launch.distillation.config import read_run_config
from launch.distillation.run_facts import read_facts
from launch.distillation.run_files import read_losses
from launch.publishing.model_card import model_card
from pretrain.checkpoints.checkpoint import Checkpoints, read_state
from pretrain.durable import damage, new_folder
from pretrain.models.encoder import EncoderShape
from pretrain.models.vocabulary_head import auto_class_of
from pretrain.progress import Progress

TOLERANCE = 1e-3  # the live student may have answered on a GPU; hidden states are of the order of 1


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
) -> float:
    """Write the published folder and return the largest difference to the live student's fixed answers."""
    if not (run / "config.json").is_file() or not (run / "run.json").is_file():
        raise ValueError(f"{run}: not a run folder (no config.json and run.json)")
    if output.exists():
        raise ValueError(f"{output}: is already there; publish to a new folder")
    checkpoint = choose_checkpoint(run, step)
    if not (checkpoint / student / "model").is_dir():
        names = ", ".join(sorted(path.parent.name for path in checkpoint.glob("*/model")))
        raise ValueError(f"{run}: no student {student!r}; students: {names}")
    card = read_card(run, student, checkpoint, teacher_name, licence)
    model_folder = checkpoint / student / "model"
    model = auto_class_of(model_folder).from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer")
    own = next(one for one in read_run_config(run / "config.json").students if one.name == student)
    facts = read_facts(run / "run.json")
    unreached = facts.unreached_parameters[student]
    drawn = {name for name in unreached if name.startswith("pooler.")}
    with new_folder(output) as partial:
        model.save_pretrained(partial, state_dict={n: w for n, w in model.state_dict().items() if n not in drawn})
        save_tokenizer(tokenizer, partial, EncoderShape.of(model.config).max_row_tokens)
        (partial / "README.md").write_text(card, encoding="utf-8")
        made = own.model_dump(mode="json") | {"teacher": facts.teacher.model_dump() if facts.teacher else None}
        (partial / "distillation.json").write_text(json.dumps(made, ensure_ascii=False, indent=2), encoding="utf-8")
        difference = difference_to_live(partial, checkpoint / student / "outputs.safetensors")
        if not difference <= TOLERANCE:
            raise ValueError(f"{output}: not published: outputs differ from the live student's by {difference:.2g}")
    return difference


def read_card(
    run: Path, student: str, checkpoint: Path, teacher_name: str | None = None, licence: str | None = None
) -> str:
    """The model card; ValueError naming the file of the run that is damaged, or does not know the student."""
    config, facts = read_run_config(run / "config.json"), read_facts(run / "run.json")
    state, metrics = read_state(checkpoint), read_losses(run, student)
    if student not in {one.name for one in config.students}:
        raise ValueError(f"{run / 'config.json'}: knows no student {student}")
    if student not in facts.unreached_parameters:
        raise ValueError(f"{run / 'run.json'}: unreached_parameters: knows no student {student}")
    if not metrics or metrics[0]["step"] > state.step:
        raise ValueError(
            f"{run / 'metrics.jsonl'}: no step was logged up to {state.step}, that of {checkpoint / 'state.json'}"
        )
    if teacher_name and not config.teacher:
        raise ValueError(f"{run}: was trained without a teacher, so --teacher-name {teacher_name} says nothing")
    values = config.model_dump(mode="json"), facts.model_dump()
    return model_card(student, *values, state, metrics, teacher_name, licence)


@torch.no_grad()
def difference_to_live(folder: Path, recorded: Path) -> float:
    """Largest absolute difference between a published folder's answers and those recorded while training."""
    live = load_file(recorded)
    model = auto_class_of(folder).from_pretrained(folder).eval()
    output = model(input_ids=live["input_ids"], output_hidden_states=True)
    differences = [(output.hidden_states[-1] - live["last_hidden_state"]).abs().max()]
    if "logits" in live:
        differences.append((output.logits[:, -1] - live["logits"]).abs().max())
    return float(max(differences))
