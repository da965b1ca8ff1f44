"""The house stays as it is drawn: who imports whom, no cycles, every file of a readable size, every config decodes."""

import ast
from pathlib import Path

import pytest

from corpus.config import load_config
from launch.command_line.config_file import read_strictly
from launch.distillation.config import read_run_config
from launch.evaluation.config import EvaluationConfig, read_evaluation
from launch.evaluation.suites import read_suite
from launch.planning.law import read_law
from launch.stages.config import TaskRunConfig

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"corpus": set(), "pretrain": set(), "tasks": {"pretrain"}, "launch": {"corpus", "pretrain", "tasks"}}
OURS = set(MAY_IMPORT)
MODULES = sorted(path for folder in OURS for path in (ROOT / folder).glob("**/*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in OURS}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_folders_import_only_what_they_may(path):
    folder = path.relative_to(ROOT).parts[0]
    others = {name.split(".")[0] for name in imports(path)} - {folder}
    assert others <= MAY_IMPORT[folder]


def check_no_cycles(arrows: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in arrows[name] & arrows.keys():
                visit(other, (*above, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def test_no_import_cycles():
    check_no_cycles({module_name(path): imports(path) for path in MODULES})


def test_no_import_cycles_between_folders():
    """A folder is what its files import; a file directly in a package stands for itself."""
    names = {module_name(path) for path in MODULES}

    def room(name: str) -> str:
        return name if name.count(".") < 2 else name.rpartition(".")[0]

    arrows: dict[str, set[str]] = {}
    for path in MODULES:
        here = room(module_name(path))
        arrows.setdefault(here, set()).update(room(name) for name in imports(path) & names if room(name) != here)
    check_no_cycles(arrows)


def test_commands_are_imported_by_nobody():
    commands = {f"launch.{path.stem}" for path in (ROOT / "launch").glob("*.py")} - {"launch.__init__"}
    assert len(commands) == 13
    assert [module_name(path) for path in MODULES if commands & imports(path)] == []


def test_every_folder_is_a_package_with_a_purpose_and_few_files():
    """Without an __init__.py any installed package named `launch` or `corpus` would win over ours."""
    for folder in {path.parent for path in MODULES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
        assert len([*folder.glob("*.py")]) - 1 <= 15, folder


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_are_nouns_of_a_readable_size(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    assert path.stem not in {"utils", "common", "helpers", "misc"}


def test_no_entry_point_shadows_a_module_that_is_imported_elsewhere():
    names = {path.stem for path in (ROOT / "launch").glob("*") if path.suffix in ("", ".py")}
    assert not names & {"tokenize", "evaluate", "datasets", "profile", "config", "deepspeed", "transformers", "tests"}


def test_every_config_decodes():
    runs, corpora = sorted((ROOT / "configs").glob("*.json")), sorted((ROOT / "configs/corpus").glob("*.json"))
    assert {path.stem for path in runs} >= {"4l312d", "4l384d", "6l384d", "6l768d", "family", "demo"} and corpora
    for path in runs:
        assert read_run_config(path).about
    for path in corpora:
        load_config(str(path), {}, {})
    tasks = sorted((ROOT / "configs/tasks").glob("*.json"))
    for path in tasks:
        assert read_strictly(TaskRunConfig, path).about
    evaluations = sorted((ROOT / "configs/evaluation").glob("*.json"))
    for path in evaluations:
        assert read_strictly(EvaluationConfig, path).about
    suites = sorted((ROOT / "configs/suites").glob("*.json"))
    for path in suites:
        suite = read_suite(path.stem)
        assert set(suite.files) <= set(suite.tasks) <= {task.stem for task in tasks}
    laws = sorted((ROOT / "configs/laws").glob("*.json"))
    for path in laws:
        assert read_law(path).about
    assert set((ROOT / "configs").rglob("*.json")) == {*runs, *corpora, *tasks, *evaluations, *suites, *laws}


def test_every_config_of_an_experiment_decodes():
    students = sorted((ROOT / "bench/first_students").glob("*.json"))
    tasks = sorted((ROOT / "bench/first_students/tasks").glob("*.json"))
    evaluations = [path for path in students if path.stem.startswith("evaluation")]
    assert len(students) > 4 and len(tasks) == 6
    for path in set(students) - set(evaluations):
        names = [one.name for one in read_run_config(path).students]
        assert names == ["minilm_v2", "minilm", "tinybert"] if path.stem == "one_teacher_pass" else names == [path.stem]
    for path in (ROOT / "bench/first_students/stages").glob("*.json"):
        assert read_strictly(TaskRunConfig, path).about
    for path in (ROOT / "bench/first_students/corpus").glob("*.json"):
        assert load_config(str(path), {}, {})
    for path in (ROOT / "bench/law/short.json", ROOT / "bench/law/unseen.json"):
        assert read_run_config(path).about
    for path in evaluations:
        read_evaluation(path, [], ["teacher=data/teacher"], list(map(str, tasks)), 1)
