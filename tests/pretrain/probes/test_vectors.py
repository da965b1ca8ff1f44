"""The probe: vectors that depend on their text alone, votes equal to a slow count, costs taken in turns."""

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from pretrain.models.sentence_files import VectorRecipe
from pretrain.probes.cost import compare_cost, model_size
from pretrain.probes.vectors import (
    chance_accuracy,
    masked_mean,
    mean_pooled,
    nearest_neighbour_accuracy,
    retrieval_accuracy,
    similarity_auc,
)

CHARACTERS = "天地人山水火风雨"
TEXTS = ["天地", "人", "山水火风雨天地人", "风雨天", "火火火火火火火火火火火火", "水"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        hidden_dropout_prob=0.5,
    )
    return BertModel(config, add_pooling_layer=False).eval()


@torch.no_grad()
def one_by_one(model: BertModel, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> torch.Tensor:
    """The slow reference: each text alone, never padded."""
    rows = [tokenizer(t, return_tensors="pt", truncation=True, max_length=max_tokens) for t in TEXTS]
    return torch.stack([model(**row).last_hidden_state[0].mean(dim=0) for row in rows])


@pytest.mark.parametrize("rows_per_batch", [1, 2, 4, 64])
@pytest.mark.parametrize("max_tokens", [5, 128])
def test_vectors_do_not_depend_on_their_batch(model, tokenizer, rows_per_batch, max_tokens):
    vectors = mean_pooled(model, tokenizer, TEXTS, max_tokens=max_tokens, rows_per_batch=rows_per_batch)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, one_by_one(model, tokenizer, max_tokens), rtol=0, atol=1e-5)


def test_cutting_at_max_tokens_changes_only_longer_texts(model, tokenizer):
    whole, cut = (mean_pooled(model, tokenizer, TEXTS, max_tokens=n) for n in (128, 6))
    longer = torch.tensor([len(text) + 2 > 6 for text in TEXTS])
    changed = (whole - cut).abs().amax(dim=1) > 1e-3
    assert torch.equal(changed, longer)


def test_dropout_is_off_while_embedding_and_back_on_after(model, tokenizer):
    expected = mean_pooled(model, tokenizer, TEXTS)
    model.train()
    vectors = mean_pooled(model, tokenizer, TEXTS)
    assert model.training
    model.eval()
    torch.testing.assert_close(vectors, expected)
    assert not vectors.requires_grad


def test_autocast_gives_float32_near_the_exact_vectors(model, tokenizer):
    vectors = mean_pooled(model, tokenizer, TEXTS, dtype="bfloat16")
    assert vectors.dtype == torch.float32
    exact = mean_pooled(model, tokenizer, TEXTS)
    assert 0 < (vectors - exact).abs().max() < 0.2


def test_values_at_padding_never_count():
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    expected = torch.stack([hidden[0, :2].mean(dim=0), hidden[1].mean(dim=0)])
    hidden[0, 2:] = math.nan
    torch.testing.assert_close(masked_mean(hidden, mask), expected)
    assert masked_mean(hidden, torch.zeros_like(mask)).tolist() == [[0.0] * 3] * 2  # a text of no tokens


def test_no_texts_is_an_error(model, tokenizer):
    with pytest.raises(ValueError, match="no texts to embed"):
        mean_pooled(model, tokenizer, [])
    with pytest.raises(ValueError, match="no texts to time"):
        compare_cost({"one": (model, tokenizer)}, [])


def slow_accuracy(train, train_labels, query, query_labels, k) -> float:
    """The definition, a query and a vote at a time, in double precision."""
    mean = train.double().mean(dim=0)
    right = 0
    for vector, label in zip(query.double() - mean, query_labels, strict=True):
        similarities = [torch.cosine_similarity(vector, other, dim=0).item() for other in train.double() - mean]
        nearest = sorted(range(len(train)), key=lambda i: -similarities[i])[:k]
        votes = dict.fromkeys(train_labels, 0.0)
        for i in nearest:
            votes[train_labels[i]] += max(similarities[i], 0.0)
        right += max(sorted(votes), key=lambda name: votes[name]) == label
    return right / len(query)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), num_classes=st.integers(2, 4))
def test_accuracy_equals_a_slow_count(seed, k, num_classes):
    generator = torch.Generator().manual_seed(seed)
    train, query = (torch.randn(n, 4, generator=generator) + 1 for n in (12, 20))
    labels = torch.randint(num_classes, (20,), generator=generator).tolist()
    train_labels = [f"class {i % num_classes}" for i in range(12)]
    query_labels = [f"class {i}" for i in labels]
    accuracy, error = nearest_neighbour_accuracy(train, train_labels, query, query_labels, k)
    assert accuracy == pytest.approx(slow_accuracy(train, train_labels, query, query_labels, k))
    assert error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 20))


def test_more_queries_than_fit_one_chunk_keep_their_order():
    labels = [i % 3 for i in range(2500)]
    query = torch.eye(3)[labels] + 0.1 * torch.randn(2500, 3, generator=torch.Generator().manual_seed(0))
    assert nearest_neighbour_accuracy(torch.eye(3), [0, 1, 2], query, labels, k=1) == (1.0, 0.0)


def test_a_shift_of_every_vector_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    train, query = (torch.randn(30, 8, generator=generator) for _ in range(2))
    labels = [i % 2 for i in range(30)]
    assert nearest_neighbour_accuracy(train, labels, query, labels, 5) == nearest_neighbour_accuracy(
        train + 3, labels, query + 3, labels, 5
    )


@pytest.mark.parametrize(
    ("train", "labels", "query", "asked", "k", "message"),
    [
        ((3, 2), [0, 1], (1, 2), [0], 1, "3 train vectors for 2 train labels"),
        ((2, 2), [0, 1], (2, 2), [0], 1, "2 query vectors for 1 query labels"),
        ((2, 2), [0, 1], (0, 2), [], 1, "0 query vectors for 0 query labels"),
        ((2, 2), [0, 1], (1, 3), [0], 1, "train vectors have width 2, query vectors 3; they must be equal"),
        ((2, 2), [0, 1], (1, 2), [0], 3, "k = 3 neighbours of 2 vectors; must be 1 to 2"),
        ((2, 2), [0, 1], (1, 2), [0], 0, "k = 0 neighbours"),
        ((2, 2), [1, 1], (1, 2), [0], 1, "all train labels are 1; a vote needs at least two classes"),
    ],
)
def test_a_vote_without_fitting_sizes_or_classes_is_an_error(train, labels, query, asked, k, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbour_accuracy(torch.ones(train), labels, torch.ones(query), asked, k)


def test_chance_is_the_commonest_label():
    assert chance_accuracy([1, 2, 2, 2, 1]) == 0.6


def test_size_counts_lookup_tables_apart(model):
    size = model_size(model)
    tables = (12 + 512 + 2) * 16
    layer = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 32
    assert size == {
        "num_parameters": tables + 32 + 2 * layer,
        "num_non_embedding": 32 + 2 * layer,
        "megabytes": pytest.approx(4e-6 * (tables + 32 + 2 * layer)),
    }


class Recorded(torch.nn.Module):
    """Notes its name and thread count at every forward."""

    def __init__(self, name: str, inner: BertModel, calls: list) -> None:
        super().__init__()
        self.name, self.inner, self.calls = name, inner, calls

    def forward(self, **batch):
        self.calls.append((self.name, torch.get_num_threads(), os.environ["TOKENIZERS_PARALLELISM"]))
        return self.inner(**batch)


def test_models_take_turns_on_one_thread(model, tokenizer, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    calls: list = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both = {name: (Recorded(name, model, calls), tokenizer) for name in ("a", "b")}
        costs = compare_cost(both, TEXTS, num_rounds=2)
        assert torch.get_num_threads() == 2 and os.environ["TOKENIZERS_PARALLELISM"] == "true"
    finally:
        torch.set_num_threads(before)
    assert len(calls) > 10 and calls == [("a", 1, "false"), ("b", 1, "false")] * (len(calls) // 2)
    for cost in costs.values():
        assert cost["milliseconds_per_text"] > 0 and cost["texts_per_second"] > 0
        # a text in a batch never costs ten times what it costs alone
        assert cost["texts_per_second"] * cost["milliseconds_per_text"] > 100


def test_retrieval_finds_each_query_s_own_document():
    generator = torch.Generator().manual_seed(0)
    documents = torch.randn(40, 8, generator=generator)
    queries = 3 * documents + 0.1 * torch.randn(40, 8, generator=generator) + 5  # a shift of all queries is no matter
    assert retrieval_accuracy(queries, documents) == (1.0, 0.0)
    swapped = queries[[1, 0, *range(2, 40)]]
    accuracy, error = retrieval_accuracy(swapped, documents)
    assert accuracy == pytest.approx(38 / 40) and error == pytest.approx((0.95 * 0.05 / 40) ** 0.5)


@pytest.mark.parametrize("shapes", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((1, 4), (1, 4))])
def test_retrieval_wants_as_many_queries_as_documents(shapes):
    with pytest.raises(ValueError, match=r"queries are .*, documents .*; they must be as many, at least 2"):
        retrieval_accuracy(*(torch.zeros(shape) for shape in shapes))


def slow_auc(first, second, labels):
    cosines = torch.nn.functional.cosine_similarity(first.double(), second.double()).tolist()
    ones = [one for one, label in zip(cosines, labels, strict=True) if label]
    zeros = [one for one, label in zip(cosines, labels, strict=True) if not label]
    return sum((a > b) + 0.5 * (a == b) for a in ones for b in zeros) / (len(ones) * len(zeros))


def test_similarity_is_the_share_of_similar_pairs_that_are_nearer():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(-1, 2, (2, 60, 3), generator=generator).float() + 0.1  # many cosines are equal
    labels = (torch.rand(60, generator=generator) < 0.4).int().tolist()
    area, error = similarity_auc(first, second, labels)
    assert area == pytest.approx(slow_auc(first, second, labels)) and 0.03 < error < 0.1
    assert similarity_auc(torch.eye(4), torch.eye(4)[[0, 2, 1, 3]], [1, 0, 0, 1])[0] == 1.0


@pytest.mark.parametrize("labels", [[1, 1], [0, 0]])
def test_pairs_of_one_label_have_no_similarity(labels):
    with pytest.raises(ValueError, match=r"2 pairs with \d labels 1 and \d labels 0; both labels must occur"):
        similarity_auc(torch.ones(2, 3), torch.ones(2, 3), labels)


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_a_recipe_pools_maps_and_puts_a_prompt_before_texts(model, tokenizer, pooling):
    model.eval()
    projection = torch.randn(5, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    recipe = VectorRecipe(pooling, projection)
    found = mean_pooled(model, tokenizer, TEXTS, recipe=recipe, prompt=TEXTS[1], rows_per_batch=2)
    for text, vector in zip(TEXTS, found, strict=True):
        batch = tokenizer(TEXTS[1] + text, return_tensors="pt", truncation=True, max_length=128)
        with torch.no_grad():
            hidden = model(input_ids=batch["input_ids"]).last_hidden_state[0]
        pooled = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pooling]
        torch.testing.assert_close(vector, projection @ pooled, rtol=1e-4, atol=1e-4)
