"""The documentation names only what is there: paths, links, commands, configurations, messages and figures."""

import argparse
import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus.reading import json_records
from launch.command_line.config_file import read_strictly
from launch.distillation.config import read_run_config
from launch.stages.config import TaskRunConfig

ROOT = Path(__file__).parents[1]
README, TWIN = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, TWIN, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "bench/README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
RESULTS = sorted((ROOT / "bench/results").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PATH = re.compile(
    r"(?<![\w./-])(?:configs|launch|corpus|pretrain|tasks|bench|tests|docs|examples)/"
    r"(?:[\w./-]*\.(?:json|py|md|png|svg|ipynb|sh|sbatch|yaml)\b|[\w/]*/(?![\w<*]))"
)
LAUNCHERS = ("deepspeed", "python", "sbatch")
WIDTH = 140


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return BLOCK.sub("", text_of(page))


def name_of(page: Any) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else " ".join(page[1])[:60]


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words of every command in the page's shell blocks; comments, and what sets variables before it, left out."""
    for language, code in BLOCK.findall(text_of(page)):
        for line in code.replace("\\\n", " ").splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield words


COMMANDS = [(page, words) for page in PAGES for words in commands_of(page)]


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=name_of)
def test_every_path_is_there(page):
    named = set(PATH.findall(text_of(page)))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=name_of)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose_of(path), re.MULTILINE)
            assert anchor in map(slug, headings), link


@pytest.mark.parametrize("page", [README, TWIN], ids=name_of)
def test_a_readme_is_short(page):
    lines = text_of(page).splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "keys.md"], ids=name_of)
def test_lines_are_short_but_for_tables(page):
    assert [line for line in text_of(page).splitlines() if len(line) > WIDTH and not line.startswith("|")] == []


def figures(page: Path) -> Counter[str]:
    """Every number of the prose; not those of links."""
    return Counter(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\]\([^)]*\)|<!--.*?-->", "", prose_of(page))))


def test_the_chinese_readme_has_the_same_headings_commands_and_figures():
    def levels(page: Path) -> list[str]:
        return re.findall(r"^#+(?= )", prose_of(page), re.MULTILINE)

    def blocks(page: Path) -> list[str]:
        return [re.sub(r"\s+# .*", "", code) for _, code in BLOCK.findall(text_of(page))]

    assert levels(README) == levels(TWIN)
    assert blocks(README) == blocks(TWIN)
    assert figures(README) == figures(TWIN)


def test_figures_of_the_readme_stand_where_they_were_recorded():
    sources = [*RESULTS, ROOT / "bench/README.md", ROOT / "docs/cluster.md"]
    recorded = Counter[str]()
    for page in sources:
        recorded += figures(page)
    others = {
        "13.1": "billion tokens: 100,000 steps of 256 rows of 512",
        "2.05": "million tokens: 500 steps of 32 rows of 128",
        "28,000": "lines of code",
        "580": "the oldest NVIDIA driver for CUDA 13",
    }
    assert sorted(figures(README).keys() - recorded.keys() - others.keys()) == []


class Parsed(Exception):
    """Raised in a command once its own parser has taken the arguments, with what it made of them."""


def parse(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Start a command of ours and stop it behind its parser. SystemExit where that refuses the arguments."""
    original = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise Parsed(original(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Parsed) as parsed:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    (namespace,) = parsed.value.args
    return namespace


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_every_command_is_taken_by_its_parser_and_its_configuration(command, monkeypatch):
    words = command[1]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE)
        assert words[1] in targets
    ours = [index for index, word in enumerate(words) if re.match(r"(launch|bench)/", word)]
    if words[0] not in LAUNCHERS and ours[:1] != [0]:
        return
    script, arguments = words[ours[0]], words[ours[0] + 1 :]
    assert (ROOT / script).is_file()
    if not script.endswith(".py"):  # a recipe of the main job
        script = "launch/gd.py"
    options = parse(script, arguments, monkeypatch)
    if script == "launch/gd.py" and options.config:
        assert read_run_config(ROOT / options.config, options.overrides)
    if script == "launch/td.py" and options.config.parts[0] == "configs":
        assert read_strictly(TaskRunConfig, ROOT / options.config, options.overrides)


def test_commands_are_found():
    assert {Path(word).name for _, words in COMMANDS for word in words if word.startswith("launch/")} >= {
        "gd.py", "td.py", "build_corpus.py", "publish.py", "report.py", "evaluate_tasks.py", "hosts.sh", "slurm.sbatch"
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_no_test_can_run_say_what_they_need(page):
    """A download, hosts or a finished run, in a comment above the block."""
    for before, code in re.findall(r"^([^\n]*)\n```bash\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE):
        if re.search(r"^\S*(deepspeed|python|sbatch).* launch/|^[^#]*launch/recipes", code, re.MULTILINE):
            assert re.search(r"<!-- needs .* -->$", before), code


def messages() -> Iterator[str]:
    """Every text of the code; what is filled in is NUL."""
    for folder in ("corpus", "pretrain", "tasks", "launch"):
        for path in (ROOT / folder).glob("**/*.py"):
            for node in ast.walk(ast.parse(text_of(path))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    yield "".join(map(str, parts))


def test_messages_to_look_up_are_those_of_the_code():
    page = text_of(ROOT / "docs/troubleshooting.md")
    quoted = [
        found for row in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for found in re.findall("`(.*?)`", row)
    ]
    assert len(quoted) > 40
    said = "\n\n".join(messages())
    patterns = {one: "[^\n]*?".join(re.escape(part.strip()) for part in one.split("...")) for one in quoted}
    assert [one for one, pattern in patterns.items() if not re.search(pattern, said)] == []


def examples() -> list[str]:
    return [code for language, code in BLOCK.findall(text_of(ROOT / "CONTRIBUTING.md")) if language == "python"]


def test_the_example_of_an_objective_trains():
    from pretrain.models.encoder import Features
    from tests.pretrain.tiny import feature_batch, features, shape

    namespace: dict[str, Any] = {}
    exec(examples()[0], namespace)
    config = namespace["MeanStateConfig"](type="mean_state")
    objective = config.build(shape(), shape(2, 12))
    teacher, student = features(4, 24, 0), features(2, 12, 1, requires_grad=True)
    (loss,) = objective(teacher, student, feature_batch()).values()
    loss.backward()
    assert 0 < loss < 2 and student.hidden_states[2].grad.abs().sum() > 0
    with torch.no_grad():
        torch.nn.init.eye_(objective.projection.weight)
        first = Features({4: torch.nn.functional.pad(student.hidden_states[2], (0, 12))})
        assert abs(objective(first, student, feature_batch())["mean_state"]) < 1e-5


def test_the_example_of_a_source_format_reads():
    namespace = vars(json_records) | {"SOURCES": dict(json_records.SOURCES)}
    exec(examples()[1], namespace)
    item = namespace["SOURCES"]["my_news"].read({"headline": "天", "body": "地", "url": "u"}, "f:1")
    assert (item.text, item.origin) == ("天\n地", "u")


def test_versions_agree():
    version = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    assert f"\nversion: {version}\n" in text_of(ROOT / "CITATION.cff")
