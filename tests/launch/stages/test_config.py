"""Configurations of a task's stages that cannot work are refused when they are decoded."""

import pytest

from launch.command_line.config_file import read_strictly
from launch.stages.config import TaskRunConfig

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
