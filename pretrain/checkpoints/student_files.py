"""A student's folder in a checkpoint: what is published, and what its training goes on from.

model/                the encoder, and a head it may have, as transformers loads them
outputs.safetensors   what the live student answers to a fixed input
training.safetensors  every parameter that model/ does not hold by its name, and the optimizer's state, where
                      exp_avg/NAME and exp_avg_sq/NAME are AdamW's moments of a trained parameter and
                      num_updates [P] how often each of them, in their order, was updated
training.json         the counters of the engine

No world size and no ZeRO stage is in it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain.durable import writing
from pretrain.engines.engine import Counters
from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.students.student import Student

_WEIGHTS = "model/model.safetensors"
_TRAINING, _COUNTERS = "training.safetensors", "training.json"


def save_student(student: Student, tensors: Mapping[str, Tensor], counters: Counters, folder: Path) -> None:
    """Write a student's folder and read it back; ValueError names the file that cannot be written or came out wrong.

    Args:
        tensors: every parameter by its name in the student, and the optimizer's state.
    """
    with writing(folder):
        folder.mkdir()
    save_model(student, folder)
    published = _published_names(student, folder)
    with writing(folder / _TRAINING):
        save_file({name: t for name, t in tensors.items() if name not in published}, folder / _TRAINING)
    with writing(folder / _COUNTERS):
        (folder / _COUNTERS).write_text(counters.model_dump_json())
    for name, tensor in read_tensors(student, folder).items():
        if tensor.dtype != tensors[name].dtype or not torch.equal(tensor, tensors[name].cpu()):
            raise ValueError(f"{folder}: {name} was read back other than it was written")


def read_tensors(student: Student, folder: Path) -> dict[str, Tensor]:
    """What `save_student` was given, checked to fit this student; ValueError names file and tensor."""
    expected = {name: parameter.shape for name, parameter in student.named_parameters()}
    trained = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    moments = {f"{kind}/{name}": expected[name] for kind in ("exp_avg", "exp_avg_sq") for name in trained}
    expected |= moments | {"num_updates": torch.Size([len(trained)])}
    tensors = _read(folder / _TRAINING)
    if published := _published_names(student, folder):
        weights = _read(folder / _WEIGHTS)
        tensors |= {name: weights[theirs] for name, theirs in published.items() if name not in tensors}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{folder}: holds no {name}, which this student has")
        if name not in expected:
            raise ValueError(f"{folder}: holds {name}, which this student has not")
        if tensors[name].shape != expected[name]:
            sizes = f"{list(tensors[name].shape)}, in this student {list(expected[name])}"
            raise ValueError(f"{folder}: {name} is {sizes}")
    return tensors


def read_counters(folder: Path) -> Counters:
    """ValueError naming the file when it cannot be read."""
    path = folder / _COUNTERS
    try:
        return Counters.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _published_names(student: Student, folder: Path) -> dict[str, str]:
    """Names in the saved model of the student's parameters that it holds: they are not stored twice."""
    path = folder / _WEIGHTS
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            saved = set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    theirs = {id(p): name for name, p in student.published.named_parameters() if name in saved}
    return {name: theirs[id(p)] for name, p in student.named_parameters() if id(p) in theirs}


def save_model(student: Student, folder: Path) -> None:
    """The model as `AutoModel.from_pretrained` reads it, and its live answer to a fixed input beside it."""
    with writing(folder / "model"):
        student.published.save_pretrained(folder / "model")
    with writing(folder / "outputs.safetensors"):
        save_file(fixed_outputs(student.encoder.model, student.head), folder / "outputs.safetensors")


@torch.no_grad()
def fixed_outputs(model: HuggingFaceModel, head: VocabularyHead | None = None) -> dict[str, Tensor]:
    """`input_ids` [2, 16] and the float32 `last_hidden_state` [2, 16, D] of the model in eval mode on them.

    With a head also the float32 `logits` [2, V] of the last position.
    """
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, model.config.vocab_size, (2, 16), generator=generator)
    training, precision = model.training, torch.get_float32_matmul_precision()
    model.eval()
    torch.set_float32_matmul_precision("highest")  # some containers lower it, and publishing compares with a CPU
    with torch.autocast(parameter.device.type, enabled=False):
        output = model.base_model(input_ids=input_ids.to(parameter.device)).last_hidden_state
        answers = {"last_hidden_state": output} | ({"logits": head.logits(output[:, -1])} if head else {})
    model.train(training)
    torch.set_float32_matmul_precision(precision)
    return {"input_ids": input_ids} | {name: answer.float().cpu().contiguous() for name, answer in answers.items()}
