"""A student's folder in a checkpoint: the model to publish, and the state from which training resumes.

model/                the encoder, with its masked-language head if it has one, as transformers loads it
outputs.safetensors   the student's output for a fixed input, and that of each smaller size of an elastic one
training.safetensors  every parameter that is not in model/, and the optimizer's state: AdamW's moments
                      exp_avg/NAME and exp_avg_sq/NAME of every trained parameter, and num_updates [P],
                      the number of updates of each of the P trained parameters, in their order
training.json         the counters of the engine

Nothing in it depends on the number of ranks or on the ZeRO stage.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain.durable import writing
from pretrain.engines.engine import Counters
from pretrain.models.encoder import HuggingFaceModel, Reads
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.students.student import Student

_WEIGHTS = "model/model.safetensors"
_TRAINING, _COUNTERS = "training.safetensors", "training.json"


def save_student(student: Student, tensors: Mapping[str, Tensor], counters: Counters, folder: Path) -> None:
    """Write a student's folder and verify it by reading it back.

    Raise ValueError naming the file that cannot be written or the tensor that is read back differently.

    Args:
        tensors: every parameter by its name in the student, and the optimizer's state.
        counters: the counters of the student's engine.
        folder: created here.
    """
    with writing(folder):
        folder.mkdir()
    save_model(student, folder)
    published = _published_names(student, folder)
    with writing(folder / _TRAINING):
        save_file({name: t for name, t in tensors.items() if name not in published}, folder / _TRAINING)
    with writing(folder / _COUNTERS):
        (folder / _COUNTERS).write_text(counters.model_dump_json(), encoding="utf-8")
    for name, tensor in read_tensors(student, folder).items():
        if tensor.dtype != tensors[name].dtype or not torch.equal(tensor, tensors[name].cpu()):
            raise ValueError(f"{folder}: {name} was read back with other values than were written")


def read_tensors(student: Student, folder: Path) -> dict[str, Tensor]:
    """Return the tensors that `save_student` was given.

    Raise ValueError naming the file or tensor if one cannot be read or does not fit this student.
    """
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
            raise ValueError(f"{folder}: does not contain {name}, which this student has")
        if name not in expected:
            raise ValueError(f"{folder}: contains {name}, which this student does not have")
        if tensors[name].shape != expected[name]:
            sizes = f"{list(tensors[name].shape)}, but {list(expected[name])} in this student"
            raise ValueError(f"{folder}: {name} is {sizes}")
    return tensors


def read_counters(folder: Path) -> Counters:
    """Read a student's training.json. Raise ValueError naming the file if it cannot be read."""
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
    """Map the student's parameters that are in the saved model, and so not stored twice, to their names there."""
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
    """Save the model as `AutoModel.from_pretrained` loads it, and its output for a fixed input.

    Raise ValueError naming the file that cannot be written.
    """
    with writing(folder / "model"):
        student.published.save_pretrained(folder / "model")
    with writing(folder / "outputs.safetensors"):
        outputs = fixed_outputs(student.encoder.model, student.head)
        save_file(outputs | _inner_outputs(student, outputs["input_ids"]), folder / "outputs.safetensors")


@torch.no_grad()
def _inner_outputs(student: Student, input_ids: Tensor) -> dict[str, Tensor]:
    """Return the float32 `2x600/last_hidden_state` [2, 16, D] of every smaller size, in eval mode, for the same ids."""
    outputs, device = {}, next(student.parameters()).device
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for name, (network, _) in student.networks.items():
        if name:
            last = network.shape.num_layers
            with torch.autocast(device.type, enabled=False):
                features = network.eval()({"input_ids": input_ids.to(device)}, Reads(frozenset({last})))
            outputs[f"{name}/last_hidden_state"] = features.hidden_states[last].float().cpu().contiguous()
    torch.set_float32_matmul_precision(precision)
    return outputs


@torch.no_grad()
def fixed_outputs(model: HuggingFaceModel, head: VocabularyHead | None = None) -> dict[str, Tensor]:
    """Return fixed `input_ids` [2, 16] and the model's float32 `last_hidden_state` [2, 16, D] for them in eval mode.

    With a head also the float32 `logits` [2, V] of the last position.
    """
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, model.config.vocab_size, (2, 16), generator=generator)
    training, precision = model.training, torch.get_float32_matmul_precision()
    model.eval()
    torch.set_float32_matmul_precision("highest")  # some containers lower it; publishing compares with a CPU's output
    with torch.autocast(parameter.device.type, enabled=False):
        output = model.base_model(input_ids=input_ids.to(parameter.device)).last_hidden_state
        outputs = {"last_hidden_state": output} | ({"logits": head.logits(output[:, -1])} if head else {})
    model.train(training)
    torch.set_float32_matmul_precision(precision)
    return {"input_ids": input_ids} | {name: tensor.float().cpu().contiguous() for name, tensor in outputs.items()}
