"""Configurations are strict: every problem is reported with its key and the nearest known key."""

import copy
import json
import re
from pathlib import Path

import pytest

from launch.command_line.config_file import changed_keys
from launch.distillation.config import MAY_CHANGE, read_run_config
from pretrain.models.shape import EncoderShape

ROOT = Path(__file__).parents[3]


def write(tmp_path, values):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    return path


def test_every_problem_is_reported_at_once_with_its_key(tmp_path, config_values):
    values = copy.deepcopy(config_values)
    values["students"][0]["num_layer"] = values["students"][0].pop("num_layers")
    values["students"][1]["objective"][0]["num_relation_heads"] = "many"
    values["training"]["total_steps"] = 0
    with pytest.raises(ValueError, match=r"run.json: 4 problem\(s\)") as caught:
        read_run_config(write(tmp_path, values))
    lines = str(caught.value).splitlines()
    assert "students.0.num_layer: unknown key; did you mean num_layers?" in lines
    assert "students.0.num_layers: required, and not given" in lines
    heads = next(line for line in lines if line.startswith("students.1.objective.0.num_relation_heads: "))
    assert heads.endswith('got "many"')
    assert "training.total_steps: Input should be greater than 0, got 0" in lines


def test_paths_leave_out_the_tags_of_unions(tmp_path, config_values):
    values = copy.deepcopy(config_values)
    values["students"][0]["init"]["layers"] = "sideways"
    del values["students"][0]["objective"][0]["num_relation_heads"]
    with pytest.raises(ValueError, match="problem") as caught:
        read_run_config(write(tmp_path, values))
    paths = {line.split(": ")[0] for line in str(caught.value).splitlines()[1:]}
    assert paths == {"students.0.init.layers", "students.0.objective.0.num_relation_heads"}


def test_overrides_are_checked_as_strictly_as_the_file(config_file):
    config = read_run_config(
        config_file, ["students.0.num_layers=4", "teacher.path=some/where", "students.1.init.layers=[1,2]"]
    )
    assert config.students[0].num_layers == 4
    assert config.teacher.path == "some/where"
    assert config.students[1].init.layers == [1, 2]
    with pytest.raises(ValueError, match=r"training.total_step: unknown key; did you mean total_steps\?"):
        read_run_config(config_file, ["training.total_step=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.total_steps", "wanted dotted.key=value"),
        ("=3", "wanted dotted.key=value"),
        ("students.7.num_layers=2", "7 is not an index of a list of 2"),
        ("students.²=2", "² is not an index of a list of 2"),
        ("students.first=2", "first is not an index of a list of 2"),
        ("about.more.still=2", "nothing lies below more"),
        ("about.more=2", "about holds no keys"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(config_file, override, message):
    with pytest.raises(ValueError, match=f"--set {override}: .*{message}"):
        read_run_config(config_file, [override])


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(ValueError, match=r"nothing.json: cannot be read: No such file"):
        read_run_config(tmp_path / "nothing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken.json: not JSON: "):
        read_run_config(tmp_path / "broken.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep.json: not JSON: maximum recursion depth"):
        read_run_config(tmp_path / "deep.json")


def test_a_member_that_a_list_lacks_is_told(config_file):
    with pytest.raises(ValueError, match=r"students\.0\.optimizer\.betas\.1: required, and not given"):
        read_run_config(config_file, ["students.0.optimizer.betas=[0.9]"])


def test_numbers_have_an_end(config_file):
    overrides = ["students.0.optimizer.betas=[0.9, 0.99]", "deepspeed.gradient_clipping=1e999"]
    wanted = r"1 problem\(s\)\ndeepspeed\.gradient_clipping: Input should be a finite number, got Infinity$"
    with pytest.raises(ValueError, match=wanted):
        read_run_config(config_file, overrides)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("students.0.num_layers=true", "integer, got true"),
        ('training.total_steps="7"', 'integer, got "7"'),
        ("training.total_steps=7.0", "integer, got 7.0"),
        ('deepspeed.torch_autocast.enabled="no"', 'boolean, got "no"'),
        ("teacher.path=7", "string, got 7"),
    ],
)
def test_no_type_is_taken_for_another(config_file, override, wanted):
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=rf"1 problem\(s\)\n{re.escape(key)}: Input should be a valid {wanted}$"):
        read_run_config(config_file, [override])


def test_an_override_that_nests_too_deep_is_a_word(config_file):
    with pytest.raises(ValueError, match=r"training\.total_steps: .* got \"\[\[\[\["):
        read_run_config(config_file, ["training.total_steps=" + "[" * 100_000])


def test_student_names_must_differ(tmp_path, config_values):
    values = copy.deepcopy(config_values)
    values["students"][1]["name"] = "small"
    with pytest.raises(ValueError, match="students: names must differ, got small more than once"):
        read_run_config(write(tmp_path, values))


def test_problems_with_the_teacher_name_the_legal_values():
    relations = [f"students.0.objective.0.{key}" for key in ("num_relation_heads=48", "teacher_layer=12")]
    config = read_run_config(ROOT / "configs/4l312d.json", [*relations, "corpus.row_tokens=1024"])
    with pytest.raises(ValueError, match="must divide") as caught:
        config.check(EncoderShape("bert", 12, 768, 12, 3072, 21128, 512))
    first, second = str(caught.value).splitlines()
    assert first.startswith("students.0.objective.0.num_relation_heads: must divide the widths of teacher (768)")
    assert first.endswith("got 48; legal values: 24, 12, 8, 6, 4, 3, 2, 1")
    assert second == "corpus.row_tokens: the teacher has 512 positions, got 1024"


def test_pairs_want_a_teacher_of_two_token_types():
    layer = "students.0.objective.0.teacher_layer=12"
    config = read_run_config(ROOT / "configs/4l312d.json", ["corpus.rows=pairs", layer])
    config.check(EncoderShape("bert", 12, 768, 12, 3072, 21128, 512, 2))
    message = r"^corpus\.rows: pairs need two token types, but the teacher has one$"
    with pytest.raises(ValueError, match=message):
        config.check(EncoderShape("roberta", 12, 768, 12, 3072, 21128, 512, 1))


WIDTHS = {"demo": 384, "well_read": 1024}  # of the only teachers that these are for


@pytest.mark.parametrize(
    "teacher",
    [EncoderShape("bert", 24, 1024, 16, 4096, 21128, 512), EncoderShape("bert", 12, 384, 12, 1536, 41343, 512)],
    ids=["hub teacher", "small teacher"],
)
@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_config_decodes_and_fits_its_teachers(path, teacher):
    config = read_run_config(path)
    if config.teacher is None:
        config.check(None)
    elif teacher.hidden_size == WIDTHS.get(path.stem, teacher.hidden_size):
        wide = [index for index, one in enumerate(config.students) if one.hidden_size > teacher.hidden_size]
        changes = [f"students.{index}.init.layers=scratch" for index in wide]  # as `about` says
        if teacher.num_layers < 24:  # the relations' layer that is named is the hub teacher's
            numbers = range(len(config.students) if path.stem != "demo" else 0)
            changes += [f"students.{index}.objective.0.teacher_layer={teacher.num_layers}" for index in numbers]
        config = read_run_config(path, changes)
        config.check(teacher)
        assert all(f"students.{index}.init.layers=scratch" in config.about for index in wide)
    config.deepspeed.accumulation_steps(1)


def test_changed_keys_leave_out_what_may_change(config_file):
    before = read_run_config(config_file).model_dump(mode="json")
    changes = ["about=x", "training.log_every_steps=1", "training.total_steps=9", "students.0.optimizer.lr=0.5"]
    after = read_run_config(config_file, changes).model_dump(mode="json")
    assert changed_keys(before, after, may_change=MAY_CHANGE) == ["students.0.optimizer.lr", "training.total_steps"]
    assert changed_keys(before, before | {"students": before["students"][:1]}, may_change=MAY_CHANGE) == ["students"]


def test_weights_and_the_cache_are_checked(config_file):
    config = read_run_config(config_file, ["corpus.weights.laws=0.2", "corpus.cache_folder=some/where"])
    assert config.corpus.weights == {"laws": 0.2} and config.corpus.cache_gigabytes == 50
    for override in ("corpus.weights.laws=-1", "corpus.cache_gigabytes=0"):
        with pytest.raises(ValueError, match=f"{override.split('=')[0]}: Input should be greater than"):
            read_run_config(config_file, [override])
    plain = read_run_config(config_file).model_dump(mode="json")
    assert changed_keys(plain, config.model_dump(mode="json"), may_change=MAY_CHANGE) == ["corpus.weights.laws"]
