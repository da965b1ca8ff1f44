"""Runs with masked text: what is refused, and students with a head from the launcher to their published folder."""

import json
import re

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from launch import gd
from launch.publish import publish
from launch.run_config import read_run_config
from pretrain.metrics import read_metrics
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
        gd.check_input(read_run_config(path), run)
    return str(caught.value)


def test_masking_and_what_reads_it_belong_together(write, tmp_path):
    said = refusal(write(None, [RELATIONS], [MLM]), tmp_path)
    assert said == 'corpus.masking: students.1 predicts masked tokens; give it, for example {"prob": 0.15}'
    said = refusal(write(MASKING, [MLM], [RELATIONS]), tmp_path)
    assert said.startswith(
        "corpus.masking: students.1 has no objective that predicts masked tokens, and would only see"
    )
    said = refusal(write(MASKING, [{"type": "distilbert", "mlm_weight": 0}]), tmp_path)
    assert said.startswith("corpus.masking: students.0 has no objective that predicts masked tokens")
    gd.check_input(read_run_config(write(MASKING, [MLM, RELATIONS])), tmp_path / "run")


def test_what_the_corpus_cannot_mask_is_refused_before_anything_starts(write, tmp_path):
    said = refusal(write(MASKING | {"whole_words": True}, [MLM]), tmp_path)
    assert said.endswith("masking by whole words needs word planes, and the corpus was built without")
    with pytest.raises(ValueError, match=r"corpus.masking.prob: Input should be less than 1, got 1.5"):
        read_run_config(write(MASKING | {"prob": 1.5}, [MLM]))


def test_a_teacher_without_a_head_stops_distilbert_with_a_message(write, tmp_path):
    done = launch("--config", str(write(MASKING, [{"type": "distilbert"}])), "--run", str(tmp_path / "run"))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert re.search(r"stopped: teacher.path: .* has no masked-language head, which distilbert needs", done.stderr)


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
