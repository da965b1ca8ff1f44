"""What makes a published student a sentence-transformers folder: its pooling and the map to the teacher's width."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from pretrain.models.pooling import POOLING_FLAGS
from pretrain.objectives.objective import ObjectiveConfig
from pretrain.objectives.sentence import SentenceConfig


def save_sentence_modules(
    objectives: Sequence[ObjectiveConfig],
    width: int,
    row_tokens: int,
    training: Path,
    folder: Path,
    prompts: Mapping[str, str],
    trained: str = "objectives",
) -> None:
    """Write the files by which sentence-transformers reads a student, if it was trained for text vectors.

    Args:
        objectives: the student's.
        width: its hidden width.
        row_tokens: the longest text that it was trained on.
        training: the checkpoint's training.safetensors, which has the trained map.
        prompts: what stood before every text that it was trained on, by name; the first becomes the default one.
        trained: the name of these objectives there.
    """
    found = next(((index, one) for index, one in enumerate(objectives) if isinstance(one, SentenceConfig)), None)
    if found is None:
        return
    index, objective = found
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    flags = {f"pooling_mode_{name}": kind == objective.pooling for kind, name in POOLING_FLAGS.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    name = f"{trained}.{index}.projection.weight"
    with safe_open(training, framework="pt") as file:
        projection = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118  (no mapping)
    if projection is not None:
        modules.append(("2_Dense", "Dense"))
        activation = "torch.nn.modules.linear.Identity"
        sizes = {"in_features": projection.shape[1], "out_features": projection.shape[0]}
        _write(folder / "2_Dense" / "config.json", sizes | {"bias": False, "activation_function": activation})
        save_file({"linear.weight": projection.contiguous()}, folder / "2_Dense" / "model.safetensors")
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": row_tokens, "do_lower_case": False})
    # encode_query and encode_document look for these two, and put nothing before a text without them
    both = {name: text for text in prompts.values() for name in ("query", "document")}
    settings = {"prompts": {**prompts, **both}, "default_prompt_name": next(iter(prompts), None)}
    _write(folder / "config_sentence_transformers.json", settings | {"similarity_fn_name": "cosine"})


def prompts_of_students(teacher: Mapping[str, Any] | None, facts: Mapping[str, Any] | None) -> dict[str, str]:
    """Return by name the prompt that students of a run read, from config.json's and run.json's `teacher`."""
    if not teacher or not facts or teacher["prompt"] is None or not teacher["prompts_students"]:
        return {}
    return {teacher["prompt"]: facts["prompt"]}


def _write(path: Path, values: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")
