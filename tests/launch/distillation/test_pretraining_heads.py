"""ELECTRA and ALBERT from a corpus to published folders that their classes load, and what is refused before a run."""

import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AlbertForPreTraining, AutoModel, AutoModelForMaskedLM, ElectraForPreTraining

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from launch.distillation.checks import check_input
from launch.distillation.config import read_run_config
from launch.distillation.session import distil_alone
from launch.publishing.student_folder import publish
from pretrain.models.teacher import load_teacher_head
from pretrain.students.config import StudentConfig
from pretrain.training.metrics import read_metrics
from tests.corpus.conftest import HAN
from tests.pretrain.tiny import student_config

MASKING = {"prob": 0.15, "max_ngram": 3, "mask_share": 0.85, "random_share": 0.0}
SWAPPED = {"rows": "pairs", "order": "swapped_half"}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A corpus of documents of several sentences."""
    folder = tmp_path_factory.mktemp("sentences")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *HAN, "，", "。"]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    draw = np.random.default_rng(0)
    documents = [
        "".join("".join(draw.choice(list(HAN), draw.integers(3, 8))) + "。" for _ in range(draw.integers(1, 8)))
        for _ in range(200)
    ]
    (folder / "text.txt").write_text("\n".join(documents), encoding="utf-8")
    source = {"name": "tiny", "format": "lines", "inputs": [str(folder / "text.txt")]}
    source["cleaning"] = {"wrongly_decoded": False, "min_function_share": 0.0}
    values = {"sources": [source], "tokenizer": str(folder), "output": str(folder / "corpus")}
    build_corpus(BuildConfig.model_validate(values, strict=False))
    return str(folder / "corpus")


def of(family, objectives, **changes):
    alone = {"architecture": {"model_type": family, "max_row_tokens": 40}, "init": {"embeddings": "scratch"}}
    return student_config(family, objective=[{"type": name} for name in objectives], **alone | changes)


def run_of(corpus, students: list[StudentConfig], **changes):
    values = {"manifest": corpus, "row_tokens": 24, "masking": MASKING, **SWAPPED} | changes
    return {
        "corpus": values,
        "teacher": None,
        "students": [student.model_dump(mode="json") for student in students],
        "training": {"total_steps": 4, "log_every_steps": 1, "save_every_steps": 2},
        "deepspeed": {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4},
    }


STUDENTS = [
    of("electra", ["replaced_tokens", "sentence_order"]),
    of("albert", ["mlm", "sentence_order"]),
    of("bert", ["replaced_tokens"]),
]


@pytest.fixture(scope="module")
def run(sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert not distil_alone(run_of(sentences, STUDENTS), folder)
    return folder


def loaded_by(kind, folder):
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["mismatched_keys"]
    return model.eval(), found["unexpected_keys"]


def test_an_electra_student_is_published_with_its_head(run, tmp_path):
    assert publish(run, "electra", tmp_path / "electra") < 1e-5
    model, unexpected = loaded_by(ElectraForPreTraining, tmp_path / "electra")
    assert not unexpected, "neither the generator nor another head is published"
    start = ElectraForPreTraining.from_pretrained(run / "start/electra")
    weights = [one.discriminator_predictions.dense_prediction.weight for one in (model, start)]
    assert not torch.equal(*weights)
    live = load_file(run / "checkpoints/step_4/electra/outputs.safetensors")
    found = AutoModel.from_pretrained(tmp_path / "electra").eval()(live["input_ids"]).last_hidden_state
    torch.testing.assert_close(found, live["last_hidden_state"], rtol=0, atol=1e-5)
    card = " ".join((tmp_path / "electra/README.md").read_text(encoding="utf-8").split())
    assert "`ElectraForPreTraining` loads it with the head that tells replaced tokens." in card
    assert "The head that tells swapped texts is not in this folder." in card and "no head for words" in card


def test_an_albert_student_is_published_with_both_heads_and_continued_from_there(run, sentences, tmp_path):
    assert publish(run, "albert", tmp_path / "albert") < 1e-5
    model, unexpected = loaded_by(AlbertForPreTraining, tmp_path / "albert")
    assert not unexpected
    start = AlbertForPreTraining.from_pretrained(run / "start/albert")
    assert not torch.equal(model.sop_classifier.classifier.weight, start.sop_classifier.classifier.weight)
    assert not torch.equal(model.albert.pooler.weight, start.albert.pooler.weight)
    masked, _ = loaded_by(AutoModelForMaskedLM, tmp_path / "albert")
    ids = torch.arange(5, 15).view(1, -1)
    torch.testing.assert_close(masked(ids).logits, model(ids).prediction_logits)
    assert load_teacher_head(str(tmp_path / "albert")).model.config.model_type == "albert"
    card = " ".join((tmp_path / "albert/README.md").read_text(encoding="utf-8").split())
    assert "`AlbertForPreTraining` loads it with the head that tells swapped texts." in card
    assert "`AutoModelForMaskedLM` loads it" in card


def test_a_family_without_such_a_class_is_published_without_the_head_and_says_so(run, tmp_path):
    assert publish(run, "bert", tmp_path / "bert") < 1e-5
    names = load_file(tmp_path / "bert/model.safetensors").keys()
    assert not [name for name in names if "generator" in name or "head" in name or "predictions" in name]
    card = (tmp_path / "bert/README.md").read_text(encoding="utf-8")
    assert "The head that tells replaced tokens is not in this folder." in card


def test_a_killed_run_goes_on_to_the_same_bits(run, sentences, tmp_path):
    parts = shutil.copytree(run, tmp_path / "parts")  # as if killed after step 2
    shutil.rmtree(parts / "checkpoints/step_4")
    (parts / "checkpoints/latest").write_text("step_2")
    (parts / "done.json").unlink()
    assert not distil_alone(run_of(sentences, STUDENTS), parts)
    for name in ("electra", "albert", "bert"):
        for file in ("training.safetensors", "model/model.safetensors"):
            whole, again = (load_file(folder / "checkpoints/step_4" / name / file) for folder in (run, parts))
            assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)
    terms = {"replaced_tokens/generator", "replaced_tokens/discriminator", "replaced_tokens/found", "sentence_order"}
    assert {f"electra/{term}" for term in terms} <= set(read_metrics(run)[-1])


@pytest.mark.parametrize(
    ("changes", "objectives", "message"),
    [
        (
            {"order": "kept"},
            ["mlm", "sentence_order"],
            'corpus.order: students.0.objective.1 (sentence_order) needs swapped pairs: "rows": "pairs", "order": '
            '"swapped_half"',
        ),
        ({"rows": "packed"}, ["mlm"], 'corpus.order: swapped_half is for corpus.rows "pairs", got packed'),
        ({"rows": "texts"}, ["mlm"], 'corpus.order: swapped_half is for corpus.rows "pairs", got texts'),
        (
            {"masking": None},
            ["replaced_tokens"],
            'corpus.masking: is required because students.0 predicts masked tokens, such as {"prob": 0.15}',
        ),
    ],
)
def test_rows_that_an_objective_cannot_read_are_refused(sentences, tmp_path, changes, objectives, message):
    config = read_run_config(run_of(sentences, [of("bert", objectives)], **changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_input(config, tmp_path, 1)


def test_a_tokenizer_without_an_end_of_sentences_is_refused(corpus_folder, tmp_path):
    config = read_run_config(run_of(str(corpus_folder), [of("bert", ["mlm", "sentence_order"])]))
    with pytest.raises(
        ValueError, match=r"corpus.order: the tokenizer .* has no piece that ends a sentence, of ! ; \?"
    ):
        check_input(config, tmp_path, 1)


def test_an_order_that_does_not_exist_is_refused(sentences):
    with pytest.raises(ValueError, match=r"corpus.order: Input should be 'kept' or 'swapped_half', got"):
        read_run_config(run_of(sentences, [of("bert", ["mlm"])], order="swapped"))
