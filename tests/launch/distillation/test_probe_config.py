"""The probe section is strict, and changing it does not make another run."""

import re

import pytest

from launch.command_line.config_file import changed_keys
from launch.distillation.config import MAY_CHANGE, read_run_config
from pretrain.models.shape import EncoderShape

TASK = '{"name": "t", "kind": "sentence", "train": "train.json", "dev": "dev.json"}'
PAIR = '{"name": "t", "kind": "pair", "train": "a", "dev": "b", "columns": {"text_b": "other"}}'
ALONE = ["teacher=null", 'students.0.architecture={"model_type": "bert"}', 'students.0.objective=[{"type": "mlm"}]']


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["probe={}"], r"^probe: .*needs a task, documents, pairs or a heldout corpus"),
        ([f"probe.task={PAIR}"], r"^probe: .*task\.kind: must be sentence, got pair"),
        (["probe.every_step=5"], r"^probe\.every_step: unknown key; did you mean every_steps\?"),
        ([f"probe.task={TASK}", "probe.max_train=9"], r"^probe\.max_train: .*greater than or equal to 10, got 9"),
        ([f"probe.task={TASK}", "probe.task.row_tokens=8"], r"^probe\.task\.row_tokens: .* got 8"),
        (["probe.heldout=some/corpus", *ALONE], r"probe\.heldout: needs a teacher, whose relations it"),
    ],
)
def test_a_probe_that_cannot_be_measured_is_an_error(config_file, overrides, message):
    with pytest.raises(ValueError) as caught:
        read_run_config(config_file, overrides)
    assert [line for line in str(caught.value).splitlines() if re.search(message, line)]


def test_too_long_texts_are_reported_with_the_other_problems(config_file):
    config = read_run_config(config_file, [f"probe.task={TASK}", "corpus.row_tokens=64"])
    with pytest.raises(ValueError) as caught:
        config.check(EncoderShape("bert", 4, 24, 4, 32, 100, 40))
    assert str(caught.value).splitlines() == [
        "corpus.row_tokens: the teacher has 40 positions, got 64",
        "probe.task.row_tokens: the teacher has 40 positions, got 128",
    ]


def test_a_probe_may_come_change_and_go_between_a_run_and_its_resumption(config_file):
    sections = [[], [f"probe.task={TASK}"], [f"probe.task={TASK}", "probe.every_steps=7", "probe.heldout=some/corpus"]]
    resolved = [read_run_config(config_file, section).model_dump(mode="json") for section in sections]
    assert [changed_keys(before, after, may_change=MAY_CHANGE) for before in resolved for after in resolved] == [[]] * 9
    assert resolved[1]["probe"]["task"]["row_tokens"] == 128  # defaults written out
