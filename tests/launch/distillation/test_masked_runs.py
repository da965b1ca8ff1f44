"""Runs with masked text: what is refused, and students with a head from the launcher to their published folder."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from launch.distillation.checks import check_input, check_tokenizer, load_corpus
from launch.distillation.config import read_run_config
from launch.publishing.student_folder import publish
from pretrain.models.teacher import load_teacher_head
from pretrain.training.metrics import read_metrics
from tests.launch.conftest import launch
from tests.pretrain.tiny import student_config, teacher_model

MLM, RELATIONS = {"type": "mlm"}, {"type": "minilm_v2", "num_relation_heads": 4}
MASKING = {"prob": 0.15, "whole_words": False}


@pytest.fixture(scope="module")
def headed_teacher(tmp_path_factory, wordpiece):
    folder = tmp_path_factory.mktemp("headed")
    tokenizer = AutoTokenizer.from_pretrained(wordpiece)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(teacher_model(vocab_size=len(tokenizer)).config).save_pretrained(folder)
    return folder


@pytest.fixture
def write(config_values, tmp_path):
    def write(masking, *objectives, **changes):
        students = [student_config(f"s{i}", objective=one).model_dump(mode="json") for i, one in enumerate(objectives)]
        corpus = config_values["corpus"] | {"masking": masking}
        path = tmp_path / "masked.json"
        path.write_text(json.dumps(config_values | {"corpus": corpus, "students": students} | changes))
        return path

    return write


def refusal(path, run):
    with pytest.raises(ValueError, match=r"masking|head") as caught:
        check_input(read_run_config(path), run, 1)
    return str(caught.value)


def test_masking_and_what_reads_it_belong_together(write, tmp_path):
    said = refusal(write(None, [RELATIONS], [MLM]), tmp_path)
    assert said == 'corpus.masking: is required because students.1 predicts masked tokens, such as {"prob": 0.15}'
    said = refusal(write(MASKING, [MLM], [RELATIONS]), tmp_path)
    assert said.startswith("corpus.masking: students.1 has no objective that predicts masked tokens; add one")
    said = refusal(write(MASKING, [{"type": "distilbert", "mlm_weight": 0}]), tmp_path)
    assert said.startswith("corpus.masking: students.0 has no objective that predicts masked tokens")
    check_input(read_run_config(write(MASKING, [MLM, RELATIONS])), tmp_path / "run", 1)


def test_what_the_corpus_cannot_mask_is_refused_before_anything_starts(write, tmp_path):
    said = refusal(write(MASKING | {"whole_words": True}, [MLM]), tmp_path)
    assert said.endswith("masking whole words needs word planes; build the corpus with whole_words")
    with pytest.raises(ValueError, match=r"corpus.masking.prob: Input should be less than 1, got 1.5"):
        read_run_config(write(MASKING | {"prob": 1.5}, [MLM]))


@pytest.mark.job
def test_a_teacher_without_a_head_stops_distilbert_with_a_message(write, tmp_path):
    done = launch("--config", str(write(MASKING, [{"type": "distilbert"}])), "--run", str(tmp_path / "run"))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert re.search(r"stopped: teacher.path: .* has no masked-language head, which distilbert needs", done.stderr)


@pytest.mark.job
def test_students_with_a_head_train_on_two_ranks_and_are_published_with_it(write, headed_teacher, tmp_path):
    teacher = {"path": str(headed_teacher), "dtype": "float32"}
    path = write(MASKING, [{"type": "distilbert"}], [MLM, RELATIONS], teacher=teacher)
    run = tmp_path / "run"
    done = launch("--config", str(path), "--run", str(run), num_ranks=2)
    assert done.returncode == 0, done.stderr
    terms = {"s0/distilbert/soft", "s0/distilbert/mlm", "s0/distilbert/cosine", "s1/mlm", "s1/relation/value"}
    assert terms <= set(read_metrics(run)[-1])
    for name in ("s0", "s1"):
        assert publish(run, name, tmp_path / name) < 1e-5
        ids = torch.arange(5, 15).view(1, -1)
        headed, plain = (kind.from_pretrained(tmp_path / name).eval() for kind in (AutoModelForMaskedLM, AutoModel))
        assert torch.equal(headed.base_model(ids).last_hidden_state, plain(ids).last_hidden_state)
        start = AutoModelForMaskedLM.from_pretrained(run / "start" / name)
        assert not torch.equal(start.cls.predictions.bias, headed.cls.predictions.bias)


@pytest.fixture
def alone(config_values, tmp_path):
    """A run without a teacher."""
    student = student_config("mine", objective=[MLM], init={"embeddings": "scratch"}, dropout_prob=0.1)
    values = student.model_dump(mode="json") | {"architecture": {"model_type": "bert", "max_row_tokens": 40}}
    corpus = config_values["corpus"] | {"masking": MASKING}
    path = tmp_path / "alone.json"
    path.write_text(json.dumps(config_values | {"corpus": corpus, "teacher": None, "students": [values]}))
    return path


@pytest.mark.job
def test_a_run_without_a_teacher_makes_one_that_others_learn_from(alone, write, corpus_folder, tmp_path):
    run, parts = tmp_path / "run", tmp_path / "parts"
    for folder in (run, parts):
        done = launch("--config", str(alone), "--run", str(folder))
        assert done.returncode == 0, done.stderr
        if folder == parts:
            break
        shutil.copytree(run, parts)  # as if killed after step 3
        shutil.rmtree(parts / "checkpoints" / "step_6")
        (parts / "done.json").unlink()
    weights = [load_file(folder / "checkpoints/step_6/mine/model/model.safetensors") for folder in (run, parts)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert json.loads((run / "run.json").read_text())["teacher"] is None
    assert {"mine/mlm"} == {name for name in read_metrics(run)[-1] if name.endswith("mlm")}
    with pytest.raises(ValueError, match="was trained without a teacher, so --teacher-name large says nothing"):
        publish(run, "mine", tmp_path / "mine", teacher_name="large")
    assert publish(run, "mine", tmp_path / "mine") < 1e-5
    card = (tmp_path / "mine/README.md").read_text(encoding="utf-8")
    assert "trained without a teacher on unlabelled text" in " ".join(card.split())
    assert "tags: [mlm]" in card and "| teacher | none |" in card and "AutoModelForMaskedLM" in card
    teacher = {"path": str(tmp_path / "mine"), "dtype": "float32"}
    check_input(read_run_config(write(MASKING, [{"type": "distilbert"}], teacher=teacher)), tmp_path / "next", 1)
    assert load_teacher_head(teacher["path"]).model.config.num_hidden_layers == 2


def test_what_a_run_without_a_teacher_cannot_do_is_refused(alone, tmp_path):
    def said(*overrides):
        with pytest.raises(ValueError, match=r"architecture|positions") as caught:
            check_input(read_run_config(alone, overrides), tmp_path / "run", 1)
        return str(caught.value)

    assert said("corpus.row_tokens=64") == "corpus.row_tokens: mine has 40 positions, got 64"
    assert said("students.0.architecture=null").startswith("students.0.architecture: is required without a")
    assert "students.0.architecture.model_type: model_type 'mpnet' is not supported: its attention does not go" in said(
        "students.0.architecture.model_type=mpnet"
    )


def test_a_corpus_whose_tokenizer_was_changed_since_is_refused(alone, wordpiece, teacher_folder, tmp_path):
    config = read_run_config(alone)
    manifest = load_corpus(config.corpus)
    check_tokenizer(config, manifest)
    other = manifest.tokenizer.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(ValueError, match=r"was built .*, but there is another now .*; build the corpus again"):
        check_tokenizer(config, manifest.model_copy(update={"tokenizer": other}))
