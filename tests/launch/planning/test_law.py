"""A law is found again from exact points, says how far it may be wrong, and is not asked where it knows nothing."""

import json
import random

import pytest

from launch.distillation.config import read_run_config
from launch.planning.fitting import fit_curve, fit_law
from launch.planning.law import read_law
from pretrain.models.pretrained import read_shape
from tests.launch.planning.conftest import KNOWN, known_points


def test_a_known_law_is_found_again(law):
    for size, tokens in ((1_000, 400), (3_000, 1_000), (16_000, 12_800)):
        assert law.curve.loss(size, tokens) == pytest.approx(KNOWN.loss(size, tokens), rel=2e-3)
    assert law.curve.floor == pytest.approx(0.4, rel=0.1)
    assert law.curve.size[1] == pytest.approx(0.3, rel=0.1) and law.curve.tokens[1] == pytest.approx(0.5, rel=0.1)
    assert law.curve.kept == pytest.approx(KNOWN.kept, rel=1e-2)
    assert law.loss_error < 1e-3 and law.kept_error < 1e-3


def test_the_kept_score_falls_as_the_loss_grows(law):
    scores = [law.curve.kept_score(loss) for loss in (0.5, 1.0, 2.0, 4.0)]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] < scores[0] < 1
    worse = [one.model_copy(update={"kept": min(0.99, 0.2 * one.loss)}) for one in known_points()]
    assert fit_curve(worse).kept[1] < 0.01, "never rises with the loss"


@pytest.mark.parametrize("score", [lambda index: 0.5 + 0.02 * (index % 3), lambda index: None if index else 0.5])
def test_a_score_that_does_not_follow_the_loss_is_not_promised(setting, score):
    points = [one.model_copy(update={"kept": score(index)}) for index, one in enumerate(known_points())]
    law = fit_law(setting, points)
    assert law.kept_score(2_000, 800) is None and law.loss(2_000, 800).value > 0


def test_noise_is_what_the_error_says(setting):
    generator = random.Random(0)
    noisy = [one.model_copy(update={"loss": one.loss * (1 + generator.gauss(0, 0.03))}) for one in known_points()]
    law = fit_law(setting, noisy)
    assert 0.015 < law.loss_error < 0.09
    inside, far = law.loss(2_000, 800), law.loss(16_000, 12_800)
    assert abs(inside.value - KNOWN.loss(2_000, 800)) < 2 * inside.error
    assert abs(far.value - KNOWN.loss(16_000, 12_800)) < 3 * far.error
    assert far.error / far.value > inside.error / inside.value, "less is known far away"


def test_one_outlier_moves_little():
    points = known_points()
    points[5] = points[5].model_copy(update={"loss": 2 * points[5].loss})
    assert fit_curve(points).loss(2_000, 800) == pytest.approx(KNOWN.loss(2_000, 800), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "lengths", "found"),
    [((500, 1_000), (200, 400, 800, 1_600), "8 points of 2 sizes and 4 lengths"),
     ((500, 1_000, 2_000, 4_000), (200, 400), "8 points of 4 sizes and 2 lengths"),
     ((500, 1_000), (200,), "2 points of 2 sizes and 1 lengths")],
)  # fmt: skip
def test_too_few_points_are_refused(setting, sizes, lengths, found):
    with pytest.raises(
        ValueError, match=f"{found}: a law needs at least 8, of three sizes and three lengths; add runs"
    ):
        fit_law(setting, known_points(sizes, lengths))


@pytest.mark.parametrize(
    ("size", "tokens", "wanted"),
    [(1_000, 400, []), (16_000, 12_800, []),
     (16_001, 400, ["16,001 parameters in layers; fitted on 500 to 8,000, trusted to 2 times beyond"]),
     (200, 400, ["200 parameters in layers; fitted on 500 to 8,000, trusted to 2 times beyond"]),
     (1_000, 12_801, ["12,801 tokens; fitted on 200 to 3,200, trusted to 4 times beyond"]),
     (1_000, 49, ["49 tokens; fitted on 200 to 3,200, trusted to 4 times beyond"])],
)  # fmt: skip
def test_out_of_range_is_said(law, size, tokens, wanted):
    assert list(law.outside(size, tokens)) == wanted
    assert law.extrapolates(size, tokens) == ((size, tokens) != (1_000, 400))


def test_what_differs_forbids_or_is_said(law, config_values):
    def differences(teacher=None, **changes):
        config = read_run_config(config_values | changes)
        return law.differences(config, config.students[0], teacher or read_shape(config.teacher.path))

    assert differences() == ([], [])
    assert differences(corpus=config_values["corpus"] | {"seed": 3}) == ([], [])
    longer = differences(corpus=config_values["corpus"] | {"row_tokens": 24})
    assert longer.forbidding == ["corpus.row_tokens is 24, was 16"]
    batch = differences(deepspeed=config_values["deepspeed"] | {"train_batch_size": 16})
    assert batch == ([], ["deepspeed.train_batch_size"])
    other = config_values["students"][0] | {"objective": [{"type": "hidden_states"}]}
    assert differences(students=[other]).forbidding[0].startswith("student.objective is [{")
    faster = config_values["students"][0] | {"optimizer": {"lr": 0.5}}
    assert differences(students=[faster]).others == ["student.optimizer.lr"]
    kernel = [config_values["students"][0]["objective"][0] | {"kernel": "portable"}]
    kernel += config_values["students"][0]["objective"][1:]
    assert differences(students=[config_values["students"][0] | {"objective": kernel}]) == ([], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda values: values.pop("curve"), "curve: required, and not given"),
     (lambda values: values.update(floor=1), "floor: unknown key"),
     (lambda values: values["curve"].update(tokens=[-1, 0.5]), "curve.tokens.0: Input should be greater than 0"),
     (lambda values: values["setting"].update(teacher_sizes={}), "setting.teacher_sizes.vocab_size: required"),
     (lambda values: values.update(without=[]), "without: List should have at least 2 items"),
     (lambda values: values.update(num_points="20"), "num_points: Input should be a valid integer, got \"20\"")],
)  # fmt: skip
def test_wrong_laws_are_refused(law_file, change, message):
    values = json.loads(law_file.read_text())
    change(values)
    law_file.write_text(json.dumps(values))
    with pytest.raises(ValueError) as refused:
        read_law(law_file)
    assert str(law_file) in str(refused.value) and message in str(refused.value)


def test_a_law_of_absurd_numbers_still_answers(law, config_values):
    curve = law.curve.model_copy(update={"tokens": (1.0, 900.0), "kept": (-5e3, 1e4)})
    assert curve.loss(1_000, 10**15) > 0 and curve.kept_score(3.0) == 0.0
    empty = law.model_copy(update={"setting": law.setting.model_copy(update={"config": {}})})
    config = read_run_config(config_values)
    found = empty.differences(config, config.students[0], read_shape(config.teacher.path))
    assert [one.split()[0] for one in found.forbidding] == ["corpus", "student"]


@pytest.mark.parametrize(("text", "message"), [("[1]", "must hold one JSON object"), ("{", "not JSON")])
def test_files_of_another_kind_are_refused(tmp_path, text, message):
    (tmp_path / "law.json").write_text(text)
    with pytest.raises(ValueError, match=f"law.json: {message}"):
        read_law(tmp_path / "law.json")
    with pytest.raises(ValueError, match=r"none.json: cannot be read"):
        read_law(tmp_path / "none.json")
