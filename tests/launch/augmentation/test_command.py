"""The command: the same bytes by any number of workers, stopped and gone on, and what it refuses."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import augment_task
from launch.augmentation import workers
from pretrain.ranks.stopping import Stopped
from tests.launch.augmentation.conftest import NUM_RECORDS
from tests.processes import run_script

FILE = "augmented.jsonl"


def options(task, model, output, *more, source="neighbours"):
    flags = ["--config", task, "--source", source, "--model", model, "--output", str(output), "--copies", "2"]
    return augment_task.parse_arguments([*flags, *more])


def run(*arguments, stop=None, **keys):
    augment_task.run(options(*arguments, **keys), stop or SimpleNamespace(reason=0))


@pytest.fixture(scope="module")
def made(tmp_path_factory, task_file, encoder):
    """By one process."""
    output = tmp_path_factory.mktemp("made") / "out"
    run(task_file, encoder, output, "--workers", "1")
    return output


def test_every_record_has_its_copies(made, task_values):
    found = [json.loads(line) for line in (made / FILE).read_text(encoding="utf-8").splitlines()]
    assert Counter(one["source"] for one in found) == dict.fromkeys(range(NUM_RECORDS), 2)
    records = map(json.loads, Path(task_values["train"]).read_text(encoding="utf-8").splitlines())
    texts = {record["id"]: record["sentence"] for record in records}
    assert all(one["sentence"] != texts[one["source"]] and one["augmented"] is True for one in found)
    assert not list(made.parent.glob(".out*"))


@pytest.mark.job
def test_two_processes_make_the_same_bytes(made, task_file, encoder, tmp_path):
    run(task_file, encoder, tmp_path / "out", "--workers", "2")
    assert (tmp_path / "out" / FILE).read_bytes() == (made / FILE).read_bytes()


def test_a_stopped_command_goes_on_and_ends_with_the_same_bytes(
    made, task_file, encoder, tmp_path, capsys, monkeypatch
):
    stop, before = SimpleNamespace(reason=0), workers.augment_shard

    def one_only(folder, index):
        before(folder, index)
        stop.reason = 15

    monkeypatch.setattr(workers, "augment_shard", one_only)
    with pytest.raises(Stopped, match=r"^15; what is done is kept$"):
        run(task_file, encoder, tmp_path / "out", "--workers", "1", stop=stop)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.augmentation/00000.jsonl").is_file()
    with pytest.raises(ValueError, match=r"was started with another augmentation.seed; remove .* to begin again"):
        run(task_file, encoder, tmp_path / "out", "--seed", "3")
    monkeypatch.setattr(workers, "augment_shard", before)
    run(task_file, encoder, tmp_path / "out", "--workers", "1")
    assert "goes on after 1 of 3 shards" in capsys.readouterr().err
    assert (tmp_path / "out" / FILE).read_bytes() == (made / FILE).read_bytes()


def test_masked_words_are_found_by_the_models_own_head(task_values, model, tmp_path, capsys):
    (tmp_path / "few.jsonl").write_text("".join(Path(task_values["train"]).read_text().splitlines(keepends=True)[:4]))
    (tmp_path / "t.json").write_text(json.dumps({"task": task_values | {"train": str(tmp_path / "few.jsonl")}}))
    run(str(tmp_path / "t.json"), model, tmp_path / "out", "--workers", "1", source="masked_language")
    said = capsys.readouterr().out
    made = (tmp_path / "out" / FILE).read_text(encoding="utf-8")
    last = said.splitlines()[-1]
    assert "of 4 records" in said
    assert ("task.augmented=" in last) == bool(made) and ("no copy could be made" in last) == (not made)


def test_masked_texts_need_no_head(task_file, encoder, tmp_path):
    run(task_file, encoder, tmp_path / "out", "--workers", "1", source="mask_and_ngram")
    assert "[MASK]" in (tmp_path / "out" / FILE).read_text(encoding="utf-8")


def test_few_words_to_choose_from_are_warned_of(task_file, encoder, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("老师教师导师\n手机电脑相机\n", encoding="utf-8")
    more = ["--words-from", str(tmp_path / "words.txt"), "--workers", "1"]
    run(task_file, encoder, tmp_path / "out", *more)
    assert (
        "words to choose from, too few for near ones; give --words-from a file of more text" in capsys.readouterr().err
    )


def test_text_without_chinese_words_is_refused_and_nothing_is_left(task_file, task_values, encoder, tmp_path):
    (tmp_path / "words.txt").write_text("2024\nhello world\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"words.txt: has no Chinese words to choose from; give a file of more text"):
        run(task_file, encoder, tmp_path / "out", "--words-from", str(tmp_path / "words.txt"))
    assert not list(tmp_path.glob(".out*")) and not (tmp_path / "out").exists()


def test_a_task_of_which_no_copies_can_be_made_is_not_given_on(task_values, encoder, tmp_path, capsys):
    train = tmp_path / "train.jsonl"
    train.write_text('{"sentence": "hello 天", "label": "a", "id": 1}\n', encoding="utf-8")
    (tmp_path / "t.json").write_text(json.dumps({"task": task_values | {"train": str(train)}}))
    words = tmp_path / "words.txt"
    words.write_text("老师教师导师\n", encoding="utf-8")
    run(str(tmp_path / "t.json"), encoder, tmp_path / "out", "--workers", "1", "--words-from", str(words))
    said = capsys.readouterr().out
    assert said.startswith("0 copies of 0 of 1 records") and "no copy could be made: these texts have no words" in said
    assert "next:" not in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workers", "0"], "--workers: must be at least 1, got 0"),
        (["--prob", "1.5"], "prob: Input should be less than or equal to 1, got 1.5"),
        (["--drop", "1"], "drop: Input should be less than 1, got 1.0"),
        (["--source", "mask_and_ngram", "--words-from", "x"], "--words-from: is for --source neighbours, not for mask"),
        (["--words-from", "no.txt"], "no.txt: cannot be read: No such file"),
        (["--source", "masked_language"], "has no masked-language head, which --source masked_language needs .*; use a "
         "teacher saved with its head, or --source neighbours, which works with any encoder"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(more, message, task_file, encoder, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(task_file, encoder, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_a_task_without_the_column_is_refused(task_values, encoder, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"task": task_values | {"columns": {"text": "title"}}}))
    with pytest.raises(ValueError, match=r"train.jsonl:1: has no title; it has sentence, label, id"):
        run(str(tmp_path / "t.json"), encoder, tmp_path / "out")


def test_two_at_a_time_are_refused(task_file, encoder, tmp_path):
    from launch.augmentation.work_folder import WorkFolder

    with WorkFolder(tmp_path / "out").held(), pytest.raises(ValueError, match="another process augments to"):
        run(task_file, encoder, tmp_path / "out")


@pytest.mark.job
def test_the_command_as_typed(made, task_file, encoder):
    flags = ["--config", task_file, "--source", "neighbours", "--model", encoder, "--output"]
    again = run_script("launch/augment_task.py", *flags, str(made))
    assert (
        again.returncode == 2 and f"error: --output {made}: already exists; remove it or give another" in again.stderr
    )
