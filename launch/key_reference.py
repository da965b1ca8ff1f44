"""Every key of every configuration, as Markdown, from the models that decode them:

python launch/key_reference.py > docs/keys.md
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.config import BuildConfig
from launch.distillation.config import MAY_CHANGE, RunConfig
from launch.evaluation.config import EvaluationConfig
from launch.stages.config import TaskRunConfig

ROOTS: dict[str, type[BaseModel]] = {
    "build_corpus.py": BuildConfig,
    "gd.py": RunConfig,
    "td.py": TaskRunConfig,
    "evaluate_tasks.py": EvaluationConfig,
}
_ABOUT = """# Configuration keys

Written by `python launch/key_reference.py > docs/keys.md`, and tested to be what the code decodes. Every file is JSON;
`*` stands for a place in a list. `--set students.0.optimizer.lr=1e-3` overrides a key of any of them.
Paths are relative to the folder that a command is started in. A key marked † may change when a run goes on; any other
change makes another run.
"""
_RUNS = ("gd.py", "td.py")
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "like"}


def reference() -> str:
    """The whole page: a table for every object that a configuration may hold."""
    places: dict[type[BaseModel], list[tuple[str, str]]] = {}
    for command, root in ROOTS.items():
        for path, model in _objects(root, ""):
            places.setdefault(model, []).append((command, path))
    return _ABOUT + "".join(f"\n{_section(model, found)}" for model, found in places.items())


def _objects(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        for below, is_member in _models(field.annotation):
            yield from _objects(below, f"{path}.{name}{'.*' if is_member else ''}".removeprefix("."))


def _models(annotation: Any, is_member: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, is_member
    for part in get_args(annotation):
        yield from _models(part, is_member or getattr(annotation, "__origin__", None) in (list, tuple, dict))


def _section(model: type[BaseModel], places: list[tuple[str, str]]) -> str:
    about = re.sub(r"(?<!\n)\n *(?![\n-])", " ", inspect.getdoc(model) or "")  # a paragraph a line
    tag = model.model_fields.get("type")
    names = get_args(tag.annotation) if tag else ()
    kind = f" of type {' or '.join(map(_code, names or ['my_package.module:MyObjectiveConfig']))}" if tag else ""
    commands, paths = (list(dict.fromkeys(column)) for column in zip(*places, strict=True))
    title = ", ".join(map(_code, filter(None, paths))) or f"The file of {commands[0]}"
    head = [
        f"## {title}{kind}",
        f"{', '.join(commands)}. {about}",
        "| key | wants | unless given | |\n|---|---|---|---|",
    ]
    lines = ["\n\n".join(head)]
    schema, comments = model.model_json_schema(), _comments(model)
    for name, wanted in schema["properties"].items():
        may_change = any(f"{path}.{name}".removeprefix(".") in MAY_CHANGE for path in paths if commands[0] in _RUNS)
        default = "" if name in schema.get("required", []) else _code(_default(model, name))
        cells = [f"`{name}`{' †' * may_change}", _wants(wanted), default, comments.get(name, "")]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(model: type[BaseModel], name: str) -> Any:
    value = model.model_fields[name].get_default(call_default_factory=True, validated_data={})
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, BaseModel) else value


def _wants(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "object"
    if "const" in schema or "enum" in schema:
        return ", ".join(map(_code, schema.get("enum", [schema.get("const")])))
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_wants(option) for option in options))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        members = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {' and '.join(dict.fromkeys(map(_wants, members)))}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """What stands behind the fields in the source, of the model and what it is made of."""
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if issubclass(part, BaseModel) and part is not BaseModel:
            found |= dict(re.findall(r"^    (\w+): [^#\n]*  # (?!type:)(.*)$", inspect.getsource(part), re.MULTILINE))
    return found


def _code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=list)}`"


if __name__ == "__main__":
    print(reference(), end="")
