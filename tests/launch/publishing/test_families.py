"""Every family trained with every objective, published, and read back by everything that reads such folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from corpus.vocabulary.pieces import num_ids, pieces_of
from corpus.vocabulary.tokenizer import load_tokenizer
from corpus.vocabulary.training import build_unigram, save_backend
from corpus.vocabulary.vocab_file import read_vocab_file
from launch.distillation.run_facts import read_facts
from launch.distillation.session import distil_alone
from launch.publishing.student_folder import publish
from pretrain.models.family import BERT_FAMILIES, FAMILIES
from pretrain.training.metrics import read_metrics
from tests.corpus.conftest import HAN
from tests.pretrain.tiny import FAMILY_SIZES, teacher_model

ROW_TOKENS = 16
TEXT = "天地玄黄，宇宙洪荒。Hello [MASK] 龘"
RELATIONS = {"num_relation_heads": 4}
PLAIN: dict[str, dict[str, Any]] = {
    "minilm_v2": RELATIONS, "minilm": RELATIONS, "ernie_tiny": RELATIONS, "tinybert": {}, "hidden_states": {}, "pkd": {}
}  # fmt: skip
TEXTS: dict[str, dict[str, Any]] = {"sentence": {"pooling": "first", "similarities": 1.0}}
MASKED: dict[str, dict[str, Any]] = {"distilbert": {}, "mlm": {}}
UNIGRAM = ("xlm-roberta", "albert", "xlm-roberta-xl")
OTHERS = [name for name in FAMILIES if name not in BERT_FAMILIES]
FULL_LAYERS = {"modernbert": [1, 4], "gemma3_text": [2, 4]}  # in which every token attends to all
FAST = ("bert", "modernbert")


def save_vocabulary(family: str, folder: Path) -> None:
    """BERT's vocab.txt with doubled and empty lines, or XLM-R's pieces."""
    if family in UNIGRAM:
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *HAN, "，", "。", "<mask>"]
        save_backend(build_unigram(pieces, [-float(len(piece)) for piece in pieces]), 38, folder)
        return
    pieces = ["[PAD]", "[unused1]", "[UNK]", "，", "[CLS]", "[SEP]", "", "[MASK]", *HAN, "，", "。", "hello"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if family in OTHERS:  # their folders hold tokenizer.json alone
        BertTokenizer.from_pretrained(folder).save_pretrained(folder)
        (folder / "vocab.txt").unlink()


def make_teacher(family: str, folder: Path) -> Path:
    folder.mkdir()
    save_vocabulary(family, folder)
    ids = num_ids(load_tokenizer(str(folder)))
    sizes: dict[str, Any] = {
        "vocab_size": ids + 3,
        "pad_token_id": 1 if family in UNIGRAM else 0,
        "initializer_range": 0.2,
    }
    if family == "ernie":
        sizes["use_task_id"] = True  # ERNIE 3.0
    kind = AutoModelForMaskedLM if FAMILIES[family].has_head else AutoModel
    teacher_model(family, kind, **sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpora(tmp_path_factory, documents) -> dict[bool, str]:
    """A corpus of WordPiece's ids and one of unigram's, by whether it is unigram's."""
    built = {}
    for family in ("bert", "albert"):
        folder = tmp_path_factory.mktemp(family)
        save_vocabulary(family, folder)
        (folder / "text.txt").write_text("\n".join(f"{document}，" for document in documents), encoding="utf-8")
        source = {"name": "tiny", "format": "lines", "inputs": [str(folder / "text.txt")]}
        values = {"sources": [source], "tokenizer": str(folder), "output": str(folder / "corpus")}
        build_corpus(BuildConfig.model_validate(values, strict=False))
        built[family in UNIGRAM] = str(folder / "corpus")
    return built


def student(name: str, objective: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Two layers of half the teacher's width."""
    sizes = {"num_layers": 2, "hidden_size": 12, "num_attention_heads": 4, "intermediate_size": 20}
    training = {"optimizer": {"lr": 1e-3}, "schedule": {"type": "linear"}}
    return {"name": name, **sizes, **training, "objective": [objective]} | changes


def train(family: str, teacher: Path, corpus: str, objectives: dict[str, dict[str, Any]], run: Path) -> None:
    """Three steps of a student for each objective; a BERT, where the teacher's layers are not BERT's."""
    masking = {"prob": 0.15} if objectives is MASKED else None
    architecture = {"architecture": {"model_type": "bert"}} if family in OTHERS else {}
    layers = {"tinybert": {"layer_map": FULL_LAYERS[family]}} if family in FULL_LAYERS else {}
    config = {
        "corpus": {
            "manifest": corpus,
            "row_tokens": ROW_TOKENS,
            "masking": masking,
            "rows": "texts" if objectives is TEXTS else "packed",
            "attend_within_documents": objectives is PLAIN and FAMILIES[family].takes_documents,
        },
        "teacher": {"path": str(teacher), "dtype": "float32"},
        "students": [
            student(name, {"type": name, **settings, **layers.get(name, {})}, **architecture)
            for name, settings in objectives.items()
        ],
        "training": {"total_steps": 3, "log_every_steps": 1, "save_every_steps": 3},
        "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4},
    }
    assert not distil_alone(config, run)


def check_published(folder: Path, run: Path, name: str, tokenizer: Any) -> None:
    """Ids by the fast and the slow tokenizer and by line, outputs by AutoModel, are those of training."""
    fast, text = AutoTokenizer.from_pretrained(folder), [TEXT, TEXT[:3]]
    wanted = tokenizer(text, padding=True)
    found = fast(text, padding=True).data  # without types of tokens for a model that has none
    assert found == {name: wanted[name] for name in found} and {"input_ids", "attention_mask"} <= set(found)
    if (folder / "vocab.txt").is_file():
        slow = BertTokenizerLegacy.from_pretrained(folder)
        assert slow(text, padding=True)["input_ids"] == wanted["input_ids"]
        lines = read_vocab_file(folder / "vocab.txt")
        assert all(lines[index] == piece for piece, index in pieces_of(tokenizer).items())
        assert len(lines) == len(fast) == len(slow) == num_ids(tokenizer)
    live = load_file(run / "checkpoints" / "step_3" / name / "outputs.safetensors")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(input_ids=live["input_ids"]).last_hidden_state
        assert model(**fast(text, padding=True, return_tensors="pt")).last_hidden_state.isfinite().all()
    torch.testing.assert_close(found, live["last_hidden_state"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("objectives", [PLAIN, MASKED, TEXTS], ids=["plain", "masked", "texts"])
@pytest.mark.parametrize(
    "family", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_a_student_of_each_objective_is_published_as_it_was_trained(tmp_path, corpora, family, objectives):
    if objectives is MASKED and not FAMILIES[family].has_head:
        pytest.skip(f"a {family} model has no masked-language head")
    teacher, run = make_teacher(family, tmp_path / "teacher"), tmp_path / "run"
    train(family, teacher, corpora[family in UNIGRAM], objectives, run)
    losses = read_metrics(run)
    tokenizer = load_tokenizer(str(teacher))
    for name in objectives:
        assert publish(run, name, tmp_path / name) < 1e-5
        check_published(tmp_path / name, run, name, tokenizer)
        first, last = (line[f"{name}/loss"] for line in (losses[0], losses[-1]))
        print(f"{family:<12} {name:<14} {first:8.4f} {last:8.4f} {num_ids(tokenizer)} ids")  # shown with -s
    score = read_facts(run / "run.json").teacher.masked_accuracy
    assert (score is not None) == (objectives is MASKED)


def test_students_of_all_families_learn_in_one_run(tmp_path, corpora):
    """Rotary or not, with and without windows, of one pass of a BERT; each is published as it was trained."""
    students = []
    for family in OTHERS:
        options = {key: value for key, value in FAMILY_SIZES.get(family, {}).items() if key != "pad_token_id"}
        architecture = {"model_type": family, "max_row_tokens": 24, "options": options}
        objective = {"type": "minilm_v2", "num_relation_heads": 4}
        # Heads of an even width, whose width some families choose
        students.append(student(family, objective, hidden_size=24, architecture=architecture))
        students[-1]["objective"].append({"type": "hidden_states"})
    teacher, run = make_teacher("bert", tmp_path / "teacher"), tmp_path / "run"
    config = {
        "corpus": {"manifest": corpora[False], "row_tokens": ROW_TOKENS},
        "teacher": {"path": str(teacher), "dtype": "float32"},
        "students": students,
        "training": {"total_steps": 3, "log_every_steps": 1, "save_every_steps": 3},
        "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4},
    }
    assert not distil_alone(config, run)
    for family in OTHERS:
        assert publish(run, family, tmp_path / family) < 1e-5
        check_published(tmp_path / family, run, family, load_tokenizer(str(teacher)))
