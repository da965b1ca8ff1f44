"""Every model gets the same split of examples, and a run is the same whether it was stopped or not."""

import pytest

from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.ranks.process_group import start_distributed
from pretrain.ranks.stopping import Stopped
from pretrain.training.trainer import LoopConfig
from tasks.examples import Classified, Question, text_of
from tasks.fine_tuning import FineTuningConfig, fine_tune, split, split_task
from tasks.readers import read_task

CONFIG = FineTuningConfig(epochs=12, learning_rates=(3e-3,), num_held_out=3)
DEEPSPEED = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "torch_autocast": {"enabled": False}}


@pytest.mark.parametrize(("num_held_out", "most", "sizes"), [(1000, None, (10, 90)), (4, 50, (4, 50)), (0, 7, (0, 7))])
def test_examples_are_held_out_or_trained_on_and_stay_in_order(num_held_out, most, sizes):
    config = FineTuningConfig(num_held_out=num_held_out, max_train_examples=most)
    examples = [Classified(f"{index:02}", None, 0) for index in range(100)]
    parts = split(examples, config)
    held_out, train = ([one.text for one in part] for part in parts)
    assert (len(held_out), len(train)) == sizes
    assert not set(held_out) & set(train) and held_out == sorted(held_out) and train == sorted(train)
    assert parts == split(examples, config)
    assert split(examples, config.model_copy(update={"max_train_examples": 3}))[0] == parts[0]


@pytest.mark.parametrize(
    "about",
    [
        lambda text, index: Classified(text, None, index % 2),  # the same review twice
        lambda text, index: Classified(text, str(index), 0),  # hypotheses about a premise
        lambda text, index: Classified(str(index), text, 0),  # keywords of an abstract
        lambda text, index: Classified(f"{text[:index]}_{text[index : index + 1]}_{text[index + 1 :]}", None, 0),
    ],
)
def test_no_text_is_held_out_and_trained_on(about):
    texts = [f"第{number:02}篇天地玄黄宇宙洪荒" for number in range(30)]
    examples = [about(text, index) for text in texts for index in range(8)]
    held_out, train = split(examples, FineTuningConfig())
    assert len(held_out) == 24 and len(train) == 216
    said = ["\n".join("".join(text_of(one)) for one in part).replace("_", "") for part in (held_out, train)]
    found = [{text for text in texts if text in part} for part in said]
    assert len(found[0]) == 3 and not found[0] & found[1]


def test_questions_about_one_text_are_all_held_out_or_all_trained_on():
    questions = [Question(str(index), "几", f"文{index % 31}", ((0, "文"),)) for index in range(310)]
    held_out, train = split(questions, FineTuningConfig(num_held_out=25))
    assert len(held_out) == 20 and len(train) == 290
    assert not {one.text for one in held_out} & {one.text for one in train}
    held_out, train = split([one for one in questions if int(one.id) % 31 < 3], FineTuningConfig())
    assert (len(held_out), len(train)) == (10, 20), "a tenth of all is less than a text has"
    assert not {one.text for one in held_out} & {one.text for one in train}
    assert split(questions[::31], FineTuningConfig())[0] == (), "all about one text"
    assert split(questions[:9], FineTuningConfig())[0] == (), "a tenth of nine is none"


def test_held_out_examples_are_not_among_the_rows_that_are_trained_on(first_character, general):
    data = read_task(first_character)
    task = split_task(first_character, data, CONFIG, general)
    assert len(task.held_out) == len(task.held_out_rows) == 2, "a text stands twice, so a third would tear two apart"
    assert len(task.encoded.train) == len(data.train) - 2 and len(task.encoded.dev) == len(data.dev)
    ids = [task.encoded.tokenizer.decode(row.input_ids[1:-1]).replace(" ", "") for row in task.held_out_rows]
    assert ids == [text_of(example)[0] for example in task.held_out]


def run(folder, first_character, general, seed=3, stop_at=None, config=CONFIG):
    asked = []

    def stop_requested():
        asked.append(1)
        return 15 if stop_at and len(asked) > stop_at else 0

    task = split_task(first_character, read_task(first_character), config, general)
    loop, deepspeed = LoopConfig(log_every_steps=4, seed=seed), DeepSpeedConfig.model_validate(DEEPSPEED)
    return fine_tune(folder, task, general, config, 3e-3, loop, deepspeed, start_distributed(), stop_requested)


def test_a_stopped_run_ends_as_one_that_was_not(first_character, general, tmp_path):
    whole = run(tmp_path / "whole", first_character, general)
    assert whole.steps == 48 and whole.dev["accuracy"] > 0.9 and set(whole.held_out) == set(whole.dev)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", first_character, general, stop_at=20)
    again = run(tmp_path / "cut", first_character, general)
    assert (again.held_out, again.dev, again.steps) == (whole.held_out, whole.dev, whole.steps)
    first, second = (sorted((tmp_path / name / "checkpoints").iterdir())[-1] for name in ("whole", "cut"))
    same = [path.relative_to(first) for path in first.rglob("*.safetensors")]
    assert same and all((first / path).read_bytes() == (second / path).read_bytes() for path in same)


def test_with_nothing_held_out_the_development_examples_alone_are_scored(first_character, general, tmp_path):
    config = CONFIG.model_copy(update={"num_held_out": 0, "epochs": 1})
    found = run(tmp_path, first_character, general, config=config)
    assert found.held_out == {} and "accuracy" in found.dev


def test_another_seed_is_another_run(first_character, general, tmp_path):
    for seed in (3, 4):
        run(tmp_path / str(seed), first_character, general, seed)
    paths = [sorted((tmp_path / str(seed) / "checkpoints").rglob("*.safetensors")) for seed in (3, 4)]
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(*paths, strict=True))
