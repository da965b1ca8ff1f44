"""Charts: valid SVG with labelled axes, one for what was logged and none for what was not."""

import xml.etree.ElementTree as ElementTree

from launch.reports.charts import draw_accuracy, draw_lines, draw_run
from launch.reports.run import Run

MODELS = [{"name": name, "accuracy": a, "standard_error": 0.02} for name, a in (("teacher", 0.7), ("small", 0.5))]


def texts(svg: str) -> set[str]:
    """Every text in the drawing; parsing it shows that it is well formed."""
    return {"".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter() if element.text}


def run(*names: str, values: tuple[float, ...] = (3.0, 2.0)) -> Run:
    records = [{"step": float(i), **dict.fromkeys(names, value)} for i, value in enumerate(values, 1)]
    return Run(records, {"students": [{"name": "a"}, {"name": "b"}]}, {})


def test_lines_are_labelled_and_axes_have_units():
    shown = texts(draw_lines({"loss": ([1, 2], [3, 2]), "hidden/0": ([1], [1]), "never": ([], [])}, "loss"))
    assert {"optimizer step", "loss", "hidden/0"} <= shown and "never" not in shown


def test_steps_are_whole_numbers():
    ticks = texts(draw_lines({"loss": ([10, 11], [3, 2])}, "loss"))
    assert {"10", "11"} <= ticks and "10.5" not in ticks


def test_a_log_axis_is_not_tried_on_a_loss_that_reaches_zero():
    assert draw_lines({"loss": ([1, 2], [3.0, 0.0])}, "loss", log_y=True) == draw_lines(
        {"loss": ([1, 2], [3.0, 0.0])}, "loss"
    )
    positive = {"loss": ([1, 2], [30.0, 1.0])}
    assert draw_lines(positive, "loss", log_y=True) != draw_lines(positive, "loss")


def test_the_same_numbers_draw_the_same_bytes():
    assert draw_accuracy(MODELS, 0.33) == draw_accuracy(MODELS, 0.33)


def test_accuracy_names_every_model_and_chance():
    assert {"teacher", "small", "chance", "nearest-neighbour accuracy, %"} <= texts(draw_accuracy(MODELS, 0.33))


def test_a_run_gets_a_chart_for_each_thing_it_logged():
    captions = [caption for caption, _ in draw_run(run("a/loss", "b/loss", "b/learning_rate", "tokens_per_second"))]
    assert captions == [
        "Training loss of a and its terms",
        "Training loss of b and its terms",
        "Learning rate",
        "Training speed",
    ]
    assert [caption for caption, _ in draw_run(run("b/hidden/0"))] == ["Training loss of b and its terms"]
    assert draw_run(run()) == []


def test_many_terms_stay_apart():
    svg = draw_run(run("a/loss", *(f"a/hidden/{i}" for i in range(13))))[0][1]
    assert {f"hidden/{i}" for i in range(13)} <= texts(svg)


def test_a_run_of_one_step_is_still_visible():
    assert "<use" in draw_lines({"loss": ([1], [3.0])}, "loss").split('id="legend')[0].split('id="line2d_')[-1]


def test_the_probe_is_drawn_with_the_teacher_where_the_run_knows_it():
    probed = run("a/probe/neighbour_accuracy", "b/probe/neighbour_accuracy", values=(0.25, 0.5))
    assert [caption for caption, _ in draw_run(probed)] == ["Neighbour accuracy while training, by the run's own probe"]
    assert {"a", "b", "nearest-neighbour accuracy, %"} <= texts(draw_run(probed)[0][1])
    assert "teacher" not in texts(draw_run(probed)[0][1])
    known = Run(probed.metrics, probed.config, {"probe": {"teacher_accuracy": 0.75}})
    assert "teacher" in texts(draw_run(known)[0][1]) and known.teacher_accuracy == 0.75
    for facts in ({"probe": 3}, {"probe": {"teacher_accuracy": "high"}}, {"probe": {"teacher_accuracy": 7.0}}):
        assert Run(probed.metrics, probed.config, facts).teacher_accuracy is None
    captions = [caption for caption, _ in draw_run(run("a/probe/heldout_relation_loss"))]
    assert captions == ["Held-out relation loss while training"]
