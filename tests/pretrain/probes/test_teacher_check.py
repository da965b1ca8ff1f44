"""A teacher that gives nothing to learn is warned of by name and layer; one that is not finite is refused."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from pretrain.models.encoder import Reads
from pretrain.models.family import BERT_FAMILIES
from pretrain.models.teacher import Teacher
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.probes.teacher_check import HeadScore, check_features
from tests.pretrain.tiny import VOCAB, batch, teacher_model

READS = Reads(frozenset({0, 2, 4}), frozenset({1, 4}))


def build(model, dtype="float32", head=None) -> Teacher:
    return Teacher(model, [READS], dtype, "cpu", head)


def masked_batch(rows: int = 40, seed: int = 0) -> dict[str, Tensor]:
    """Every third token is masked, as id 1."""
    given = batch(rows, padding=False, seed=seed)
    places = torch.arange(given["input_ids"].shape[1]) % 3 == 0
    labels = given["input_ids"].masked_fill(~places, -100)
    return {**given, "input_ids": given["input_ids"].masked_fill(places, 1), "labels": labels}


@pytest.mark.parametrize("family", BERT_FAMILIES)
def test_nothing_is_said_of_an_ordinary_teacher(family):
    assert check_features(build(teacher_model(family, initializer_range=0.2)), [batch(), batch(seed=1)]) == (None, [])


def constant(model) -> None:
    """As of a model whose last norm was not loaded."""
    model.encoder.layer[3].output.LayerNorm.weight.zero_()


def dead_queries(model) -> None:
    model.encoder.layer[3].attention.self.query.weight.zero_()
    model.encoder.layer[3].attention.self.query.bias.fill_(1)


def huge_values(model) -> None:
    model.encoder.layer[0].attention.self.value.weight.mul_(1e3)


def near_limit(model) -> None:
    model.encoder.layer[3].attention.self.key.bias[0] = 40_000


@pytest.mark.parametrize(
    ("damage", "dtype", "said"),
    [
        (constant, "float32", r"hidden states of layer 4 are nearly the same for all tokens \(they differ by 0 %"),
        (dead_queries, "float32", "the teacher's queries of layer 4 are nearly the same for all tokens"),
        (
            huge_values,
            "float32",
            r"relations among the teacher's values of layer 1 are saturated \(a token's first",
        ),
        (near_limit, "float16", "the teacher's keys of layer 4 come near the largest number of float16"),
    ],
)
def test_degenerate_features_are_named(damage, dtype, said):
    model = teacher_model(initializer_range=0.2)
    with torch.no_grad():
        damage(model)
    _, remarks = check_features(build(model, dtype), [batch(), batch(seed=1)])
    assert [remark for remark in remarks if said.replace("\\", "") in remark], remarks
    assert len(remarks) == len(set(remarks))


@pytest.mark.parametrize(
    ("number", "dtype", "advice"),
    [(1e6, "float16", "set teacher.dtype=float32, or bfloat16"), (float("inf"), "float32", "take another teacher")],
)
def test_features_that_are_not_finite_are_refused(number, dtype, advice):
    model = teacher_model()
    with torch.no_grad():
        model.encoder.layer[3].attention.self.value.bias[3] = number
    said = f"values of layer 4 are not finite in {dtype} on the first rows of the corpus; {advice}"
    with pytest.raises(ValueError, match=said):
        check_features(build(model, dtype), [batch()])


def test_padding_is_not_looked_at():
    model = teacher_model(initializer_range=0.2)
    teacher, given = Teacher(model, [Reads(frozenset({0}))], "float32", "cpu"), batch()
    with torch.no_grad():
        model.embeddings.position_embeddings.weight[7:] = float("nan")  # where row 1 is padded, the others are real
    with pytest.raises(ValueError, match="hidden states of layer 0 are not finite"):
        check_features(teacher, [given])
    one = {name: tensor[1:2] for name, tensor in given.items()}
    assert check_features(teacher, [one]) == (None, [])


def head_of(family: str, knows: bool) -> tuple[Teacher, list[dict[str, Tensor]]]:
    """A masked-language model of random weights; one that "knows" answers what the labels are."""
    model = teacher_model(family, AutoModelForMaskedLM, initializer_range=0.2)
    head = VocabularyHead(model)
    teacher, given = build(model.base_model, head=head), masked_batch()
    if knows:
        places = given["labels"] != -100
        answer = given["labels"][places]
        teacher.head.logits = lambda hidden: torch.nn.functional.one_hot(answer, VOCAB).float()
    return teacher, [given]


@pytest.mark.parametrize("family", BERT_FAMILIES)
def test_a_head_at_its_random_start_is_warned_of(family):
    score, remarks = check_features(*head_of(family, knows=False))
    assert score.num_tokens == 160 and score.accuracy < 0.2
    assert f"the teacher's masked-language head predicts {score}: it knows no more than chance" in remarks[0]
    assert "chinese-roberta-wwm-ext-large" in remarks[0]


def test_a_head_that_knows_is_scored_without_a_warning():
    score, remarks = check_features(*head_of("bert", knows=True))
    assert (score.accuracy, remarks) == (1.0, []) and score.commonest < 0.2
    assert str(score).startswith("100.0 % of 160 masked tokens (always the commonest of them: ")


@pytest.mark.parametrize(
    ("accuracy", "commonest", "num_tokens", "is_chance"),
    [(0.06, 0.05, 1000, True), (0.06, 0.05, 100_000, False), (0.3, 0.05, 100, False), (0.0, 0.0, 10, True)],
)
def test_chance_is_the_commonest_token_within_its_error(accuracy, commonest, num_tokens, is_chance):
    assert HeadScore(accuracy, commonest, num_tokens).is_chance == is_chance
