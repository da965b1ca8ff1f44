"""The card says what a student is worth and where its weights come from, and takes nothing for a loss that is none."""

import re

import pytest
import torch

from launch.distillation.config import read_run_config
from launch.publishing.model_card import Measured, RunRecord, model_card
from launch.publishing.student_folder import publish
from pretrain.checkpoints.checkpoint import TrainingState

FACTS = {
    "corpus": {"tokens": 1000, "documents": 1, "fingerprint": "f", "sources": []},
    "teacher": {"path": "large", "fingerprint": "e"},
    "unreached_parameters": {"small": ["pooler.dense.weight"]},
    "ran_on": [
        {"step": 0, "device": "8 x NVIDIA H200", "teacher": "bfloat16", "students": "float16"},
        {"step": 3, "device": "CPU", "teacher": None, "students": "float32"},
        {"step": 6, "device": "after the checkpoint", "teacher": None, "students": "float32"},
    ],
}
PROBE = {"task": "titles", "num_train": 800, "num_dev": 400, "chance": 0.25, "teacher_accuracy": 0.75}
METRICS = {"step": 6, "small/loss": 0.5, "small/learning_rate": 1e-3, "small/grad_norm": 1.0, "small/skipped_steps": 0}
MEASURED = Measured("bert", 18.31e6, 7.1e6, 73.4, 19.6, 138.0, 64, "Some CPU")


def make_card(config_file, facts=FACTS, metrics=(METRICS,), init=None, tokens=768, papers=(), **more):
    config = read_run_config(config_file).model_dump(mode="json")
    config["students"][0]["init"] |= init or {}
    state = TrainingState(step=6, rows=48, tokens=tokens, seconds=150.0)
    return model_card("small", RunRecord(config, facts, state, metrics, papers), MEASURED, "small-zh", **more)


def test_its_first_lines_are_what_it_is_for_how_large_how_fast_and_how_good(config_file):
    start = {"step": 0, "small/probe/neighbour_accuracy": 0.25, "small/probe/heldout_relation_loss": 4.5}
    last = METRICS | {"small/probe/neighbour_accuracy": 0.5, "small/probe/heldout_relation_loss": 1.25}
    card = make_card(config_file, FACTS | {"probe": PROBE}, [start, last])
    head = card.split("## What it must not be used for")[0]
    for fact in (
        "A small Chinese text encoder: it turns text into vectors, for search,",
        "| parameters | 18.3 million, 7.1 million of them outside the embeddings |",
        "| size on disk | 73.4 MB of weights (float32) |",
        "| speed | 138 texts a second in batches of 32, 19.6 ms for one text (texts of 64 tokens, float32, one ",
        "| nearest-neighbour accuracy | 50.0 ± 2.5 % (400 texts of titles, each labelled by its 10 nearest "
        "neighbours among 800); the teacher 75.0 %; always the commonest label 25.0 %; "
        "this student before training 25.0 % |",
        "| held-out relation loss | 1.250 (0 is the teacher; 4.500 before training) |",
    ):
        assert fact in head
    earlier = make_card(config_file, FACTS | {"probe": PROBE}, [start | {"step": 3}, METRICS])
    assert "| nearest-neighbour accuracy at step 3 | 25.0 ± 2.2 % (" in earlier and "before training" not in earlier
    assert "| scores | none: the run that made it measured none |" in make_card(config_file)


def test_what_it_must_not_be_used_for_follows_from_how_it_was_made(config_file):
    card = make_card(config_file)
    assert "- Anything but trying out how students are made: it has read 768 tokens," in card
    assert "- Texts of more than 16 tokens" in card and "- Filling in or writing text" in card
    assert "Anything but trying out" not in make_card(config_file, tokens=20_000_000)
    cut = FACTS | {"unreached_parameters": {"small": ["encoder.layer.3.output.dense.weight"]}}
    assert "- Its vectors, before fine-tuning: its last layer was not trained as a whole" in make_card(config_file, cut)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (768, "(77 % of the corpus)"),
        (1, "(0.1 % of the corpus)"),
        (2500, "(2.5 times the corpus)"),
        (999, "(1.0 times the corpus)"),
    ],
)
def test_the_share_of_the_corpus_is_never_zero(config_file, tokens, said):
    assert said in make_card(config_file, tokens=tokens)


@pytest.mark.parametrize(
    ("init", "start", "unreached"),
    [
        ({"layers": "uniform"}, "widths differ; layers: the teacher's, evenly spread |", "a pooler is left out"),
        ({"layers": "last"}, "layers: the teacher's last ones |", "a pooler is left out"),
        ({"layers": [1, 3]}, "layers: the teacher's 1, 3 |", "a pooler is left out"),
        ({"embeddings": "scratch"}, "| start | embeddings: random; layers: random |", "as initialised (random)"),
        ({"student": "students/x"}, "| start | all weights: those of `students/x` |", "that this one began as"),
        ({"student": "/home/me/x"}, "| start | all weights: those of `x` |", "that this one began as"),
    ],
)
def test_the_start_is_what_the_weights_began_as(config_file, init, start, unreached):
    whole = {"embeddings": "teacher", "layers": "scratch", "student": None} | init
    card = make_card(config_file, init=whole)
    assert start in card and unreached in card
    assert ("and those of `" in card) == ("student" in init), "what that one was trained on"
    assert "distilled from `large` on" in card and "| licence of the weights | not stated: the terms of" in card
    assert "| training time | 2.5 minutes |" in card
    rows = card.split("| term | value |")[1].split("\n\n")[0].splitlines()
    assert rows[2:] == ["| loss | 0.5000 |"]
    machines = "8 x NVIDIA H200: teacher in bfloat16, student in float16; from step 3 on CPU: student in float32"
    assert f"| computed on | {machines} |" in card


def test_what_it_is_called_elsewhere_and_how_its_vectors_are_made(config_file):
    card = make_card(config_file, teacher_name="someone/large", licence="apache-2.0")
    head = card.split("---")[1].splitlines()
    assert {"base_model: someone/large", "license: apache-2.0", "pipeline_tag: feature-extraction"} < set(head)
    for path, base in (("hub/large", "base_model: hub/large\n"), ("/a/local/large", "")):
        named = make_card(config_file, FACTS | {"teacher": FACTS["teacher"] | {"path": path}})
        assert ("base_model" in named, base in named) == (bool(base), True) and "/a/local" not in named
    assert "`someone/large`, weights e" in card and "| licence of the weights | apache-2.0 |" in card
    assert "max_length=16" in card and "AutoModel.from_pretrained(folder)" in card and "no trained pooler" not in card
    without = make_card(config_file, load_options="add_pooling_layer=False")
    assert "AutoModel.from_pretrained(folder, add_pooling_layer=False)" in without and "no trained pooler" in without


def test_it_says_how_to_make_it_again_and_how_to_cite_it(config_file):
    card = make_card(config_file, papers=["2012.15828"])
    commands = re.findall(r"^(?:deepspeed|python) .*$", card, re.MULTILINE)
    assert commands == [
        "deepspeed launch/gd.py --config small-zh/training.json --run runs/small",
        "python launch/publish.py --run runs/small --student small --output students/small",
    ]
    named = make_card(config_file, teacher_name="someone/large")
    assert "the teacher at `someone/large`" in named
    assert "the teacher at `large`" in make_card(config_file, teacher_name="a large one")
    assert "expects the corpus of this fingerprint at `corpus/manifest.json` and the teacher at `large`" in card
    assert "> small, a Chinese encoder of 18.3 million parameters, distilled from large (weights e) by " in card
    assert card.endswith("- https://arxiv.org/abs/2012.15828\n")


def test_its_code_runs_in_plain_transformers(finished_run, tmp_path, monkeypatch):
    publish(finished_run, "small", tmp_path / "small")
    card = (tmp_path / "small/README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    made: dict[str, torch.Tensor] = {}
    exec(card.split("```python\n")[1].split("```")[0], made)
    assert made["vectors"].shape == (1, 12) and "FOLDER" not in card
