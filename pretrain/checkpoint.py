"""Checkpoints: written aside, synced, then renamed, so that a folder named step_N is whole.

checkpoints/latest                       the name of the newest, moved last
checkpoints/step_500/state.json          step and rows seen: all the data order needs
checkpoints/step_500/<student>/engine/   DeepSpeed's: weights, projections, optimizer, schedule
checkpoints/step_500/<student>/model/    the encoder, and a head it may have, as transformers loads them
checkpoints/step_500/<student>/outputs.safetensors   what the live student answers to a fixed input
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from safetensors.torch import save_file
from torch import Tensor

from pretrain.encoder import HuggingFaceModel
from pretrain.engine import StudentEngine
from pretrain.student import Student
from pretrain.vocabulary_head import VocabularyHead


class TrainingState(BaseModel):
    """Where a run stands. One integer, `rows`, is the whole state of the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    step: NonNegativeInt
    rows: NonNegativeInt
    tokens: NonNegativeInt
    seconds: float


class Checkpoints:
    """The checkpoints of one run folder; every method is called by every rank."""

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / "checkpoints"
        self.keep = keep

    def save(self, engines: Sequence[StudentEngine], state: TrainingState) -> None:
        """Write step_N beside the others, make it durable, and only then point `latest` at it and drop old ones."""
        leading = dist.get_rank() == 0
        final = self.folder / f"step_{state.step}"
        partial = self.folder / f".step_{state.step}.partial"
        if leading:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        for engine in engines:
            engine.engine.save_checkpoint(str(partial / engine.name), tag="engine", save_latest=False)
            if leading:
                save_model(engine.student, partial / engine.name)
        dist.barrier()
        if leading:
            (partial / "state.json").write_text(state.model_dump_json())
            _sync_tree(partial)
            if final.exists():  # the same step saved before: the same bits
                shutil.rmtree(final)
            partial.rename(final)
            _write_durably(self.folder / "latest", final.name)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old)
        dist.barrier()

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = (path for path in self.folder.glob("step_*") if (path / "state.json").is_file())
        return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))

    def newest(self) -> Path | None:
        """The checkpoint `latest` names, or the newest whole one where that is gone."""
        pointer = self.folder / "latest"
        if pointer.is_file() and (self.folder / pointer.read_text() / "state.json").is_file():
            return self.folder / pointer.read_text()
        return max(self.all(), key=lambda path: path.stat().st_mtime, default=None)

    def load(self, engines: Sequence[StudentEngine]) -> TrainingState:
        """Load what rank 0 sees as newest into every engine; the zero state when there is none."""
        choice = [self.newest()] if dist.get_rank() == 0 else [None]
        dist.broadcast_object_list(choice)
        if choice[0] is None:
            return TrainingState(step=0, rows=0, tokens=0, seconds=0.0)
        state = read_state(choice[0])
        for engine in engines:
            folder = choice[0] / engine.name
            if not folder.is_dir():
                raise ValueError(f"{choice[0]}: holds no student {engine.name}")
            engine.engine.load_checkpoint(str(folder), tag="engine")
            if engine.steps != state.step:
                raise ValueError(f"{folder}: is at step {engine.steps}, the run at step {state.step}")
        return state


def read_state(checkpoint: Path) -> TrainingState:
    """state.json of one checkpoint; ValueError naming the file when it cannot be read."""
    path = checkpoint / "state.json"
    try:
        return TrainingState.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable training state: {error}") from error


def save_model(student: Student, folder: Path) -> None:
    """The model as `AutoModel.from_pretrained` reads it, and its live answer to a fixed input beside it."""
    student.published.save_pretrained(folder / "model")
    save_file(fixed_outputs(student.encoder.model, student.head), folder / "outputs.safetensors")


@torch.no_grad()
def fixed_outputs(model: HuggingFaceModel, head: VocabularyHead | None = None) -> dict[str, Tensor]:
    """`input_ids` [2, 16] and the float32 `last_hidden_state` [2, 16, D] of the model in eval mode on them.

    With a head also the float32 `logits` [2, V] of the last position.
    """
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, model.config.vocab_size, (2, 16), generator=generator)
    training = model.training
    model.eval()
    with torch.autocast(parameter.device.type, enabled=False):
        output = model(input_ids=input_ids.to(parameter.device)).last_hidden_state
        answers = {"last_hidden_state": output} | ({"logits": head.logits(output[:, -1])} if head else {})
    model.train(training)
    return {"input_ids": input_ids} | {name: answer.float().cpu().contiguous() for name, answer in answers.items()}


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _write_durably(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)  # makes renames in this folder last, the checkpoint's too
