"""DynaBERT's stage: sizes of the fine-tuned teacher, by width and then by depth, with a table of scores and speed."""

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from launch.command_line.config_file import read_strictly
from launch.stages.chain import Chain, summary
from launch.stages.config import TaskRunConfig
from launch.stages.elastic import sizes_table
from pretrain.elastic.size import Size
from pretrain.elastic.slices import cut_model
from pretrain.ranks.stopping import Stop, StopReason
from tasks.readers import read_task

STAGE = {"epochs": 2, "optimizer": {"lr": 1e-3}}
LABELS = [{"type": "labels"}]
ELASTIC = STAGE | {"elastic": {"depths": [2], "feed_forward": [8, 16]}}
SIZES = ["4x32", "4x16", "4x8", "2x32", "2x16", "2x8"]


@pytest.fixture(scope="module")
def values(teacher_folder, tmp_path_factory) -> dict[str, Any]:
    data = tmp_path_factory.mktemp("task") / "data.json"
    records = [{"sentence": f"{first} {rest}", "label": first} for first in "天地" for rest in "玄黄宇宙洪荒"]
    data.write_text("".join(json.dumps(one) + "\n" for one in records))
    return {
        "task": {"name": "t", "kind": "sentence", "train": str(data), "dev": str(data), "row_tokens": 16},
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "student": str(teacher_folder),
        "stages": {"ft": STAGE | {"objective": LABELS}, "elastic": ELASTIC},
        "training": {"log_every_steps": 1},
        "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "torch_autocast": {"enabled": False}},
    }


def chain(values: dict[str, Any], run: Any, stop: Stop | None = None) -> Chain:
    config = read_strictly(TaskRunConfig, values)
    config.check()
    return Chain(config, read_task(config.task), run, stop or Stop(), lambda error: None)


@pytest.fixture(scope="module")
def finished(values, tmp_path_factory):
    run = tmp_path_factory.mktemp("chain") / "run"
    assert chain(values, run).train() is StopReason.NONE
    return run


def test_every_size_is_a_model_of_the_task_with_its_score_and_speed(finished, values):
    rows = json.loads((finished / "elastic/sizes.json").read_text())
    assert list(rows) == SIZES and sorted(SIZES) == sorted(path.name for path in (finished / "elastic/sizes").iterdir())
    whole = AutoModelForSequenceClassification.from_pretrained(finished / "elastic/model")
    for size in SIZES:
        model = AutoModelForSequenceClassification.from_pretrained(finished / "elastic/sizes" / size)
        cut = cut_model(whole, Size.parse(size)).state_dict()
        assert all(torch.equal(weight, cut[name]) for name, weight in model.state_dict().items())
        assert set(rows[size]["scores"]) == {"accuracy", "f1", "macro_f1"} and rows[size]["milliseconds_per_text"] > 0
        assert AutoTokenizer.from_pretrained(finished / "elastic/sizes" / size).model_max_length == 40
    assert rows["4x32"]["num_parameters"] > rows["4x8"]["num_parameters"] > rows["2x8"]["num_parameters"]
    table = (finished / "elastic/sizes.md").read_text()
    assert table == sizes_table(rows, "accuracy") and table.count("\n| ") == 6
    assert table in summary(read_strictly(TaskRunConfig, values), finished)


def test_the_first_phase_is_by_width_alone(finished):
    rows = json.loads((finished / "elastic/width/sizes.json").read_text())
    assert list(rows) == ["4x32", "4x16", "4x8"]


def test_a_chain_that_stops_in_the_second_phase_goes_on_there_and_ends_bit_for_bit_the_same(finished, values, tmp_path):
    width = tmp_path / "elastic/width/done.json"

    class StopInTheSecondPhase(Stop):
        asked = 0

        @property
        def reason(self) -> StopReason:
            self.asked += width.is_file()
            return StopReason.SIGTERM if self.asked > 4 else StopReason.NONE

        @reason.setter
        def reason(self, value: StopReason) -> None:
            """Nothing but the second phase stops it."""

    one = chain(values, tmp_path, StopInTheSecondPhase())
    assert one.train() is StopReason.SIGTERM
    assert list((tmp_path / "elastic/checkpoints").glob("step_*")) and not (tmp_path / "elastic/done.json").exists()
    written = width.stat().st_mtime_ns
    assert chain(values, tmp_path).train() is StopReason.NONE
    assert width.stat().st_mtime_ns == written
    for size in SIZES:
        ours, theirs = (
            AutoModelForSequenceClassification.from_pretrained(run / "elastic/sizes" / size).state_dict()
            for run in (tmp_path, finished)
        )
        assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elastic": {"depths": [5]}}, r"stages.elastic.elastic.depths: a sub-network is a part of the student, whose"),
        ({"elastic": {"feed_forward": [8], "heads": [2]}}, "fewer heads of the same width are no ordinary model"),
        ({"objective": [{"type": "hidden_states"}]}, "must have soft_labels or labels: nothing else trains"),
        ({"adversarial": {"type": "fgm"}}, "is not for elastic stages; give adversarial to ft or td2"),
        (
            {"quantization": {"weights": 8}},
            "rounds one size alone; leave it out, and train a published size with it in td2",
        ),
        (
            {"objective": [{"type": "soft_labels"}, {"type": "minilm_v2", "num_relation_heads": 5}]},
            r"stages.elastic.objective.1.num_relation_heads: must divide the widths .* \(at 2 layers\)",
        ),
    ],
)
def test_what_a_stage_cannot_make_is_refused(values, tmp_path, changes, message):
    stages = {"ft": values["stages"]["ft"], "elastic": ELASTIC | changes}
    with pytest.raises(ValueError, match=message):
        chain(values | {"stages": stages}, tmp_path)


def test_an_elastic_stage_wants_one_fine_tuned_teacher(values, teacher_folder):
    alone = {key: value for key, value in values.items() if key != "teacher"}
    elastic = {"stages": {"elastic": ELASTIC}}
    with pytest.raises(ValueError, match=r"teacher: stages.elastic needs one"):
        read_strictly(TaskRunConfig, alone | elastic)
    with pytest.raises(ValueError, match=r"stages.elastic: is made from one fine-tuned teacher"):
        read_strictly(TaskRunConfig, alone | elastic | {"teachers": [{"path": "a"}, {"path": "b"}]})
    config = read_strictly(TaskRunConfig, values | elastic)
    assert config.reads_unlabelled
    with pytest.raises(ValueError, match="has no head for this task; fine-tune it first"):
        config.check_heads(["地", "天"])
