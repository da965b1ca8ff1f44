"""Configurations of a task's stages that cannot work are refused when they are decoded."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.bilstm import trial
from launch.command_line.config_file import read_strictly
from launch.command_line.fingerprints import task_model_inputs
from launch.stages.chain import check_inputs, inputs_of
from launch.stages.config import TaskRunConfig
from tests.pretrain.tiny import teacher_model

LABELS, FGM = [{"type": "labels"}], {"type": "fgm"}
STAGE = {"optimizer": {"lr": 1e-3}}
VALUES = {
    "task": {"name": "t", "kind": "sentence", "train": "train.json", "dev": "dev.json", "row_tokens": 16},
    "teacher": {"path": "teacher"},
    "student": "student",
    "stages": {"td2": STAGE | {"objective": [*LABELS, {"type": "soft_labels"}]}},
    "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4},
}


def test_adversarial_training_is_for_stages_that_predict():
    soft = [{"type": "soft_labels"}]
    for name, objective, how in (("ft", LABELS, FGM), ("td2", soft, {"type": "pgd"})):
        stage = STAGE | {"objective": objective, "adversarial": how}
        read_strictly(TaskRunConfig, VALUES | {"stages": {name: stage}})
    td1 = STAGE | {"objective": [{"type": "minilm_v2", "num_relation_heads": 4}], "adversarial": FGM}
    with pytest.raises(ValueError, match=r"\nstages.td1.adversarial: fgm needs .*, or give adversarial to ft or td2$"):
        read_strictly(TaskRunConfig, VALUES | {"stages": {"td1": td1}})
    ged = {"config": "configs/4l312d.json", "adversarial": FGM}
    with pytest.raises(
        ValueError, match=r"\nstages.ged.adversarial: general text has no labels; give adversarial to ft or"
    ):
        read_strictly(TaskRunConfig, VALUES | {"stages": {"ged": ged}})


TWO = [{"path": "a"}, {"path": "b", "weight": 2.0}]


def several(stages=VALUES["stages"], teachers=TWO, **keys):
    return {name: value for name, value in VALUES.items() if name != "teacher"} | {
        "teachers": teachers, "stages": stages, **keys
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (several(teacher={"path": "c"}), "teachers: are given in place of teacher; leave out one of them"),
        (several(teachers=[*TWO, {"path": "a"}]), "teachers: a is listed more than once; give it a weight"),
        (several(teachers=[{"path": "a", "weight": 0}]), "teachers.0.weight: Input should be greater than 0, got 0"),
        (several(teachers=[]), "teachers: List should have at least 1 item"),
        (several({"ft": STAGE | {"objective": LABELS}}),
         "stages.ft: has one teacher; fine-tune each in a run of its own, list their ft/model folders in teachers, and "
         "leave out ft"),
        (several({"ged": {"config": "configs/4l312d.json"}}), "stages.ged: has one teacher; "),
    ],
)  # fmt: skip
def test_several_teachers_are_refused_where_they_cannot_teach(values, message):
    with pytest.raises(ValueError, match=r".") as caught:
        read_strictly(TaskRunConfig, values)
    assert any(line.startswith(message) for line in str(caught.value).splitlines()), caught.value


@pytest.fixture
def models(teacher_folder, tmp_path):
    """Two fine-tuned teachers, a and b, and their values."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    names = {"id2label": {0: "天", 1: "地"}, "label2id": {"天": 0, "地": 1}}
    for name in "ab":
        model = teacher_model("bert", AutoModelForSequenceClassification, vocab_size=len(tokenizer), **names)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"sentence": "天", "label": "天"}, ensure_ascii=False))
    task = VALUES["task"] | {"train": str(data), "dev": str(data)}
    teachers = [{"path": str(tmp_path / name)} for name in "ab"]
    return tmp_path, several(teachers=teachers, student=str(teacher_folder), task=task)


def test_teachers_of_other_labels_tokenizers_or_lengths_are_refused(models):
    folder, values = models
    config = read_strictly(TaskRunConfig, values)
    config.check()
    config.check_heads(["天", "地"])
    with pytest.raises(
        ValueError, match=r"^teachers.0.path: .*a: its head is for the labels 天, 地; this task has 地, 天$"
    ):
        config.check_heads(["地", "天"])
    long = read_strictly(TaskRunConfig, values, ["task.row_tokens=64"])
    with pytest.raises(ValueError, match=r"task.row_tokens: .*b has 40 positions, got 64"):
        long.check()
    tokenizer = json.loads((folder / "b/tokenizer.json").read_text())
    (folder / "b/tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    with pytest.raises(
        ValueError, match=r"teachers.1.path: .*b has another tokenizer than the student .*; all teachers"
    ):
        read_strictly(TaskRunConfig, values).check()
    shutil.rmtree(folder / "a")
    with pytest.raises(ValueError, match=r"teachers.0.path: there is no folder"):
        read_strictly(TaskRunConfig, values).check()


def test_every_teacher_must_fit_the_objectives(models):
    folder, values = models
    objective = [{"type": "minilm_v2", "num_relation_heads": 4, "teacher_layer": 3}, {"type": "hidden_states"}]
    config = read_strictly(TaskRunConfig, values | {"stages": {"td1": STAGE | {"objective": objective}}})
    config.check()
    sizes = json.loads((folder / "b/config.json").read_text())
    (folder / "b/config.json").write_text(json.dumps(sizes | {"num_hidden_layers": 2}))
    with pytest.raises(
        ValueError, match=r"^stages.td1.objective.0.teacher_layer: .* 2 layers, .* \(teachers.1.path: .*b\)\n"
    ):
        config.check()


def test_a_general_model_among_several_teachers_teaches_states_but_no_predictions(models, teacher_folder):
    _, values = models
    states = {"stages": {"td1": STAGE | {"objective": [{"type": "hidden_states"}]}}}
    config = read_strictly(TaskRunConfig, values | states, [f"teachers.1.path={teacher_folder}"])
    config.check_heads(["天", "地"])
    config = read_strictly(TaskRunConfig, values, [f"teachers.1.path={teacher_folder}"])
    with pytest.raises(ValueError, match=r"^teachers.1.path: .*: has no head for this task; fine-tune it first"):
        config.check_heads(["天", "地"])


def test_every_teacher_is_recorded_with_its_head(models):
    folder, values = models
    config = read_strictly(TaskRunConfig, values)
    assert len(inputs_of(config)["teachers"]) == 2 and inputs_of(config)["teacher"] is None
    check_inputs(config, folder)
    check_inputs(config, folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "b")
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(folder / "b")
    task_model_inputs.cache_clear()
    with pytest.raises(ValueError, match=r"was started with another teachers.1.weights. Give another --run folder"):
        check_inputs(config, folder)


RELATIONS = [{"type": "minilm_v2", "num_relation_heads": 4}]
BILSTM = VALUES | {"student": {"bilstm": {"hidden_size": 8}}}
NO_LAYERS = "reads layers of the student, and a BiLSTM has none: use soft_labels, logits_mse and labels, in td2"


def test_a_student_that_begins_here_is_decoded():
    config = read_strictly(TaskRunConfig, BILSTM, ["student.bilstm.num_layers=2", "stages.td2.adversarial.type=fgm"])
    assert config.student.bilstm.num_layers == 2 and config.student.bilstm.embedding_size == 300
    assert config.tokenizer_path == "teacher" and read_strictly(TaskRunConfig, VALUES).tokenizer_path == "student"
    assert read_strictly(TaskRunConfig, several(student=BILSTM["student"])).tokenizer_path == "a"
    read_strictly(TaskRunConfig, several({"td2": STAGE | {"objective": [{"type": "logits_mse"}]}}))
    assert read_strictly(TaskRunConfig, trial.CONFIG).student.bilstm.hidden_size == 384


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BILSTM | {"task": VALUES["task"] | {"kind": "entities"}},
         "student: a BiLSTM learns tasks of kind sentence and pair, and t is of kind entities: use a"),
        (BILSTM | {"task": VALUES["task"] | {"kind": "coreference"}}, "student: a BiLSTM learns tasks of kind"),
        (BILSTM | {"teacher": None, "stages": {"td2": STAGE | {"objective": LABELS}}},
         "student: a BiLSTM begins with a teacher's tokenizer, even where it learns labels alone: give teacher"),
        (BILSTM | {"stages": {"ged": {"config": "configs/4l312d.json"}}},
         "stages.ged: general distillation reads layers of the student, and a BiLSTM has none: leave it out"),
        (BILSTM | {"stages": {"td1": STAGE | {"objective": RELATIONS}}},
         f"stages.td1.objective.0: minilm_v2 {NO_LAYERS}"),
        (BILSTM | {"stages": {"td2": STAGE | {"objective": [*LABELS, {"type": "hidden_states"}]}}},
         f"stages.td2.objective.1: hidden_states {NO_LAYERS}"),
        (BILSTM | {"stages": {"td2": STAGE | {"objective": [{"type": "tinybert"}]}}},
         f"stages.td2.objective.0: tinybert {NO_LAYERS}"),
        (BILSTM | {"stages": {"td2": STAGE | {"objective": LABELS, "quantization": {"weights": 8}}}},
         "stages.td2.quantization.weights: must be 4 for a BiLSTM, or quantization left out: an int8 graph also"),
        (BILSTM | {"student": {"bilstm": {"hidden_size": 0}}},
         "student.bilstm.hidden_size: Input should be greater than 0, got 0"),
        (BILSTM | {"student": {"bilstm": {"hiden_size": 8}}},
         "student.bilstm.hiden_size: unknown key; did you mean hidden_size?"),
        (BILSTM | {"student": {}}, "student.bilstm: required, and not given"),
        (BILSTM | {"student": {"gru": {}}}, "student.bilstm: required, and not given"),
        (BILSTM | {"student": ""}, "student: String should have at least 1 character"),
    ],
)  # fmt: skip
def test_a_bilstm_is_refused_what_it_cannot_learn(values, message):
    with pytest.raises(ValueError, match=r".") as caught:
        read_strictly(TaskRunConfig, values)
    assert any(line.startswith(message) for line in str(caught.value).splitlines()), caught.value
