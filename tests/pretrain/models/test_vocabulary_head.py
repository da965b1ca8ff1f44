"""The head is transformers' own, tied to the embeddings, required where configured, published with its student."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from pretrain.checkpoints.student_files import save_model
from pretrain.models.family import FAMILIES
from pretrain.models.teacher import Teacher, load_teacher_head
from pretrain.models.vocabulary_head import VocabularyHead, auto_class_of
from pretrain.optimizer import OptimizerConfig, build_optimizer
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, student_config, teacher_model

REAL_TEACHER = Path(__file__).parents[3] / "../shared/data/teacher"
MLM = [{"type": "mlm"}]
HEADED = [name for name, family in FAMILIES.items() if family.has_head]


def masked_lm(model_type="bert", **changes):
    """A random model of the tiny teacher's sizes, with a head."""
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(teacher_model(model_type, **changes).config).eval()
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model


@pytest.mark.parametrize("model_type", HEADED)
def test_a_loaded_head_gives_transformers_logits(model_type, tmp_path):
    model = masked_lm(model_type)
    model.save_pretrained(tmp_path)
    head = load_teacher_head(str(tmp_path))
    ids = batch(padding=False)["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        hidden = head.model.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(head.logits(hidden), expected)
    if model.config.tie_word_embeddings:
        assert head.weight is head.model.get_input_embeddings().weight
    assert not any("base" in name or "encoder" in name for name, _ in head.named_parameters())


def test_the_activation_is_the_models_where_its_family_asks_the_config():
    model = masked_lm("bert", hidden_act="relu")
    hidden = torch.randn(3, 24)
    torch.testing.assert_close(VocabularyHead(model).logits(hidden), model.cls(hidden))
    model = masked_lm("roberta", hidden_act="relu")
    torch.testing.assert_close(VocabularyHead(model).logits(hidden), model.lm_head(hidden))


@pytest.mark.parametrize("model_type", HEADED)
def test_a_teacher_without_a_head_is_refused_and_never_given_a_random_one(model_type, tmp_path):
    teacher_model(model_type, tie_word_embeddings=True).save_pretrained(tmp_path)
    if not FAMILIES[model_type].head_dense:  # a tied decoder alone, which every encoder has
        load_teacher_head(str(tmp_path))
        return
    with pytest.raises(ValueError, match=r"has no masked-language head, .* \(missing: .* and \d more\); use a teacher"):
        load_teacher_head(str(tmp_path))


def test_a_real_teacher_without_a_head_is_refused(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    if not REAL_TEACHER.is_dir():
        pytest.skip("no real teacher beside the repository")
    (tmp_path / "config.json").write_bytes((REAL_TEACHER / "config.json").read_bytes())
    with (
        (REAL_TEACHER / "model.safetensors.zst").open("rb") as packed,
        (tmp_path / "model.safetensors").open("wb") as out,
    ):
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    with pytest.raises(ValueError, match="has no masked-language head, which distilbert needs"):
        load_teacher_head(str(tmp_path))


@pytest.mark.parametrize("model_type", HEADED)
def test_a_students_head_is_tied_trained_and_loads_with_both_classes(model_type, tmp_path):
    model = teacher_model(model_type, tie_word_embeddings=False)
    architecture = {"architecture": {"model_type": model_type, "max_row_tokens": 32}, "hidden_size": 24}
    config = student_config(objective=MLM, **({} if FAMILIES[model_type].is_bert else architecture))
    student = build_student(config, model, seed=0)
    words = student.encoder.model.get_input_embeddings().weight
    assert student.head.weight is words
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    unreached = student.freeze_unreached(teacher)
    assert not any("embeddings.word" in name or "layer.1" in name for name in unreached)
    assert all(parameter.requires_grad for parameter in student.head.parameters())
    with torch.no_grad():
        words += 1.0
        if student.head.bias.requires_grad:
            student.head.bias += 1.0
    save_model(student, tmp_path)
    student.eval()
    ids = {"input_ids": batch(padding=False)["input_ids"]}
    with torch.no_grad():
        logits = student.head.logits(student.encoder(ids).hidden_states[2])
        whole = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
        torch.testing.assert_close(whole(**ids).logits, logits)
        assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
        plain = AutoModel.from_pretrained(tmp_path / "model").eval()
        torch.testing.assert_close(plain(**ids).last_hidden_state, student.encoder(ids).hidden_states[2])
    assert auto_class_of(tmp_path / "model") is AutoModelForMaskedLM


def test_a_student_without_such_an_objective_is_saved_without_a_head(tmp_path):
    student = build_student(student_config(), teacher_model(), seed=0)
    assert student.head is None
    save_model(student, tmp_path)
    assert auto_class_of(tmp_path / "model") is AutoModel


def test_tied_embeddings_are_not_decayed():
    student = build_student(student_config(objective=MLM), teacher_model(), seed=0)
    decayed = build_optimizer(student, OptimizerConfig(lr=0.1)).param_groups[0]["params"]
    assert not any(parameter is student.head.weight for parameter in decayed)
    assert any(parameter is student.head.transform[0].weight for parameter in decayed)


def test_a_students_head_starts_as_the_teachers_where_the_widths_agree(tmp_path):
    masked_lm().save_pretrained(tmp_path)
    head = load_teacher_head(str(tmp_path))
    for width, same in ((24, True), (12, False)):
        config = student_config(hidden_size=width, objective=[{"type": "distilbert"}])
        student = build_student(config, head.model.base_model, 0, teacher_head=head)
        assert torch.equal(student.head.bias, head.bias) == same
        assert (student.head.transform[0].weight.shape == head.transform[0].weight.shape) == same
        if same:
            assert torch.equal(student.head.transform[0].weight, head.transform[0].weight)


def test_a_students_head_starts_as_the_published_students(tmp_path):
    model = teacher_model()
    first = build_student(student_config(objective=MLM), model, seed=1)
    first.published.save_pretrained(tmp_path)
    config = student_config(objective=MLM, init={"student": str(tmp_path)})
    second = build_student(config, model, seed=2)
    assert first.head.state_dict().keys() == second.head.state_dict().keys()
    assert all(torch.equal(tensor, second.head.state_dict()[name]) for name, tensor in first.head.state_dict().items())


def test_an_untied_decoder_of_the_teacher_does_not_replace_the_embeddings(tmp_path):
    model = masked_lm(tie_word_embeddings=False)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    head = load_teacher_head(str(tmp_path))
    config = student_config(hidden_size=24, objective=[{"type": "distilbert"}])
    student = build_student(config, head.model.base_model, 0, teacher_head=head)
    assert torch.equal(student.head.weight, model.get_input_embeddings().weight)
    assert not torch.equal(student.head.weight, head.weight)


def test_a_frozen_decoder_is_converted_once_and_a_trained_one_never():
    head = VocabularyHead(teacher_model(auto_class=AutoModelForMaskedLM).to(torch.bfloat16))
    assert head.decoder[0] is head.weight and head.decoder[1] is head.bias
    head.requires_grad_(False)
    weight, bias = head.decoder
    assert weight.dtype == bias.dtype == torch.float32
    assert head.decoder[0] is weight and head.decoder[1] is bias
    assert torch.equal(weight, head.weight.float())
