"""Teachers and students of families without BERT's layers: every objective, every start, and what is refused."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.family import BERT_FAMILIES, FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.students.config import ArchitectureConfig, StudentConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import FAMILY_SIZES, batch, student_config, teacher_model

OTHERS = [name for name in FAMILIES if name not in BERT_FAMILIES]
WINDOWS = ("modernbert", "gemma3_text")
HEADED = [name for name in OTHERS if FAMILIES[name].has_head]
PLAIN: list[dict[str, Any]] = [
    {"type": "minilm_v2", "num_relation_heads": 4},
    {"type": "minilm", "num_relation_heads": 4},
    {"type": "hidden_states"},
    {"type": "pkd"},
    {"type": "sentence", "pooling": "mean"},
    {"type": "tinybert"},
]
MASKED: list[dict[str, Any]] = [{"type": "distilbert"}, {"type": "mlm"}]
_STRIPPED = ("pad_token_id", "sliding_window_pattern")


def options(family: str) -> dict[str, Any]:
    """What makes the family different, at a student's size."""
    sizes = {key: value for key, value in FAMILY_SIZES.get(family, {}).items() if key not in _STRIPPED}
    return sizes | ({"layer_types": ["full_attention"] * 2} if family in WINDOWS else {})


def of_family(family: str, objectives: list[dict[str, Any]], **changes: Any) -> StudentConfig:
    architecture = {"model_type": family, "max_row_tokens": 32, "options": options(family)}
    if family in BERT_FAMILIES:
        architecture.pop("options")
    sizes = {"hidden_size": 24}  # heads of an even width
    return student_config(**sizes | {"architecture": architecture, "objective": objectives} | changes)


def fitting(objectives: list[dict[str, Any]], teacher: str) -> list[dict[str, Any]]:
    """Scores are compared with layers in which every token attends to all."""
    layers = {"modernbert": [1, 4], "gemma3_text": [2, 4]}.get(teacher, "uniform")
    return [one | ({"layer_map": layers} if one["type"] == "tinybert" else {}) for one in objectives]


def train_a_step(config: StudentConfig, teacher: Any) -> Any:
    head = VocabularyHead(teacher) if config.objective[0].needs_teacher_head else None
    model = head.model.base_model if head else teacher
    assert list(config.problems(EncoderShape.of(model.config))) == []
    student = build_student(config, model, 0, teacher_head=head)
    assert student.encoder.shape == config.shape(EncoderShape.of(model.config))
    given = batch() | {"labels": batch()["input_ids"]}
    frozen = Teacher(model, [student.teacher_reads], "float32", "cpu", head)
    student.freeze_unreached(frozen, given)
    loss, terms = student(given, frozen(given))
    loss.backward()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in trained) and len(trained) > 5
    assert loss > 0 and all(torch.isfinite(value) for value in terms.values())
    return student


@pytest.mark.parametrize("family", OTHERS)
def test_a_bert_learns_every_objective_from_any_teacher(family):
    train_a_step(of_family("bert", fitting(PLAIN, family)), teacher_model(family))
    if family in HEADED:
        train_a_step(of_family("bert", MASKED), teacher_model(family, AutoModelForMaskedLM))


@pytest.mark.parametrize("family", OTHERS)
def test_any_family_learns_every_objective_from_a_bert(family):
    train_a_step(of_family(family, PLAIN), teacher_model())
    if family in HEADED:
        train_a_step(of_family(family, MASKED), teacher_model("bert", AutoModelForMaskedLM))


@pytest.mark.parametrize("family", ["modernbert", "eurobert", "nomic_bert", "qwen3"])
def test_rotated_queries_are_compared_if_that_is_wanted(family):
    """Between two rotary models; content alone is another loss."""
    losses = []
    for rotated in (False, True):
        objective = [{"type": "minilm", "num_relation_heads": 4, "rotated": rotated}]
        student = train_a_step(of_family(family, objective), teacher_model(family))
        given = batch()
        frozen = Teacher(teacher_model(family), [student.teacher_reads], "float32", "cpu")
        losses.append(student(given, frozen(given))[1])
    assert losses[0]["relation/query_key"] != losses[1]["relation/query_key"]
    torch.testing.assert_close(losses[0]["relation/value"], losses[1]["relation/value"])


@pytest.mark.parametrize("family", OTHERS)
@torch.no_grad()
def test_a_student_with_its_teachers_sizes_starts_as_its_teacher(family):
    sizes = {"num_layers": 4, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}
    architecture = {"model_type": family, "max_row_tokens": 32, "options": options(family)}
    if family in WINDOWS:
        architecture["options"]["layer_types"] = teacher_model(family).config.layer_types
    config = student_config(**sizes, architecture=architecture, init={"layers": "uniform"})
    teacher = teacher_model(family)
    assert list(config.problems(EncoderShape.of(teacher.config))) == []
    student = build_student(config, teacher, 0)
    reads, given = Reads(frozenset({2})), batch(padding=False)
    if family in ("megatron-bert", "xlm-roberta-xl"):
        return  # their positions are embeddings, which start at random
    found, wanted = (Encoder(one, reads)(given).hidden_states[2] for one in (student.encoder.model, teacher))
    if FAMILY_SIZES.get(family, {}).get("embedding_size") or family == "nomic_bert" or family == "deberta-v2":
        return  # beside word embeddings theirs have types or a projection, which start at random
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("teacher", "changes", "problem"),
    [
        ("modernbert", {"architecture": None}, "architecture: is required beside a teacher of family modernbert, for"),
        (
            "qwen3",
            {"init": {"layers": "uniform"}},
            "init.layers: must be scratch: layers of bert compute otherwise",
        ),
        (
            "modernbert",
            {"objective": [{"type": "minilm_v2", "num_relation_heads": 4, "teacher_layer": 3}]},
            "objective.0.teacher_layer: tokens of the teacher's layer 3 attend only to those within 3, and relations "
            "are between all of a row; the nearest layer without such a window is 4",
        ),
        (
            "modernbert",
            {"objective": [{"type": "tinybert"}]},
            "objective.0.layer_map: scores cannot be compared in the teacher's layers [2], whose tokens attend only to "
            "those within 3; the nearest without a window: [1, 4]",
        ),
        (
            "deberta-v2",
            {"objective": [{"type": "minilm_v2", "num_relation_heads": 4, "rotated": True}]},
            "objective.0.rotated: a deberta-v2 teacher adds positions inside its attention, where they cannot be read",
        ),
        (
            "bert",
            {"architecture": {"model_type": "modernbert"}, "num_attention_heads": 4},
            "num_attention_heads: heads that are rotated by positions need an even width",
        ),
        (
            "bert",
            {
                "architecture": {"model_type": "modernbert", "options": {"global_attn_every_n_layers": 2}},
                "hidden_size": 24,
                "objective": [{"type": "tinybert"}],
            },
            "objective.0.type: scores cannot be compared in the student's layers [1], whose tokens attend only to "
            "those within 64; set all of architecture.options.layer_types to full_attention",
        ),
        (
            "bert",
            {
                "architecture": {
                    "model_type": "modernbert",
                    "options": {"layer_types": ["full_attention", "sliding_attention"]},
                },
                "hidden_size": 24,
            },
            "objective.0.type: tokens of the student's last layer attend only to those within 64, and relations are",
        ),
    ],
)
def test_what_a_family_cannot_serve_is_refused(teacher, changes, problem):
    values = {"architecture": {"model_type": "bert"}, "objective": PLAIN[:1]} | changes
    found = student_config(**values).problems(EncoderShape.of(teacher_model(teacher).config))
    assert next(f"{key}: {message}" for key, message in found).startswith(problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 8}, "options.hidden_size: is set by another key of the student, or by its tokenizer"),
        ({"window": 8}, "options.window: is no key of a modernbert model's configuration"),
    ],
)
def test_options_are_keys_of_the_family(options, message):
    with pytest.raises(ValueError, match=message):
        ArchitectureConfig(model_type="modernbert", options=options)


@pytest.mark.parametrize("num_layers", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("family", WINDOWS)
def test_every_token_attends_to_all_in_a_students_last_layer(family, num_layers):
    config = student_config(num_layers=num_layers, architecture={"model_type": family}, hidden_size=24)
    shape = config.shape(EncoderShape.of(teacher_model().config))
    assert num_layers not in shape.sliding_layers and shape.sliding_layers


def test_what_a_student_of_another_kind_starts_with_is_said():
    modern, bert = (EncoderShape.of(teacher_model(name).config) for name in ("modernbert", "bert"))
    note = of_family("bert", PLAIN[:1]).init.notes(modern, bert)
    assert note == (
        "starts with the word embeddings of its modernbert teacher; positions and layers of a bert model start at "
        "random"
    )
    assert student_config().init.notes(bert, bert) is None


@pytest.mark.parametrize("sizes", [(24, 4), (32, 2)], ids=str)
@pytest.mark.parametrize("family", OTHERS)
def test_a_students_heads_follow_from_its_sizes_without_options(family, sizes):
    width, heads = sizes
    architecture = {"model_type": family, "max_row_tokens": 32}
    config = of_family(family, PLAIN[:1], hidden_size=width, num_attention_heads=heads, architecture=architecture)
    student = train_a_step(config, teacher_model())
    assert student.encoder.shape.attention_size == width
