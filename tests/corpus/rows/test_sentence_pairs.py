"""Swapped pairs: texts of whole sentences as a slow reference cuts them, half of them swapped, by position alone."""

import re
from itertools import chain, islice

import numpy as np
import pytest
import torch

from corpus.rows.masking import IGNORED, MaskingSettings
from corpus.rows.packing import Frame, build_pair_rows
from corpus.rows.sentence_pairs import SentencePairs, sentence_end_ids
from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from corpus.vocabulary.tokenizer import load_tokenizer
from tests.corpus.rows.test_stream import with_word_planes

END, L = 9, 16
FRAME = Frame(2, 3, 0)
PLANE = FRAME.of_planes


def block_of(seed, num_documents=200):
    """Ids of documents of 1 to 60 tokens in which about every sixth ends a sentence."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 60, num_documents)
    ids = draw.integers(10, 500, lengths.sum())
    ids[draw.random(len(ids)) < 1 / 6] = END
    return ids, lengths


def texts_of(row):
    """The texts of a row, as lists of ids."""
    texts = [[]]
    for token in row[1:].tolist():
        if token == FRAME.pad:
            break
        texts.append([]) if token == FRAME.sep else texts[-1].append(token)
    return texts[:-1]


def slow_spans(text, following, is_first, is_last):
    """The sentences of a part of a document, without what is cut at its edges: lists of ids."""
    sentences, current = [], []
    for index, token in enumerate(text):
        current.append(token)
        if token == END and [*text, following][index + 1] != END:
            sentences.append(current)
            current = []
    if current and is_last:
        sentences.append(current)
    return sentences if is_first else sentences[1:]


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_cut_between_sentences_and_lose_only_what_is_cut_at_the_edges(seed):
    ids, lengths = block_of(seed)
    rows = SentencePairs([END], FRAME, 17).builder(ids)(ids, lengths, L, FRAME)
    documents = np.split(ids, np.cumsum(lengths)[:-1])
    parts = [
        (document[part * len(document) // count : (part + 1) * len(document) // count].tolist(), part, count, document)
        for document in documents
        for count in [-(-len(document) // (L - 3))]
        for part in range(count)
    ]
    assert len(rows) == len(parts) == len(build_pair_rows(ids, lengths, L, FRAME))
    num_pairs = 0
    for row, (text, part, count, document) in zip(rows, parts, strict=True):
        before = document[part * len(document) // count - 1] if part else END
        begins = part == 0 or (before == END and text[0] != END)
        following = np.append(document, 0)[(part + 1) * len(document) // count]
        sentences = slow_spans(text, following, begins, part == count - 1)
        found = texts_of(row)
        assert row[0] == FRAME.cls and len(found) <= 2
        if len(sentences) < 2:
            assert found == [text], "a part without a place to cut is one text"
            continue
        num_pairs += 1
        assert len(found) == 2 and found[0] + found[1] == list(chain(*sentences))
        assert len(found[0]) in np.cumsum([len(one) for one in sentences])
    assert num_pairs > 50


def test_half_of_the_pairs_are_swapped_with_their_planes_and_rows_of_one_text_never():
    ids, lengths = block_of(0, 2000)
    pairs = SentencePairs([END], FRAME, 17)
    rows, plane = (pairs.builder(ids)(*one) for one in ((ids, lengths, L, FRAME), (ids % 2 == 0, lengths, L, PLANE)))
    positions = np.arange(len(rows))
    (swapped, moved), labels = pairs.swap_half((rows, plane), positions)
    for row, other, label in zip(rows, swapped, labels, strict=True):
        texts = texts_of(row)
        assert (label == IGNORED) == (len(texts) == 1)
        assert texts_of(other) == (texts[::-1] if label == 1 else texts)
        assert ((other == FRAME.pad) == (row == FRAME.pad)).all()
    is_text = (swapped != FRAME.cls) & (swapped != FRAME.sep) & (swapped != FRAME.pad)
    assert (moved[is_text] == (swapped[is_text] % 2 == 0)).all() and not moved[~is_text].any()
    asked = labels[labels != IGNORED]
    assert abs(asked.mean() - 0.5) < 4 * 0.5 / len(asked) ** 0.5
    again = pairs.swap_half((rows,), positions)[1]
    next_epoch, other_seed = (
        one.swap_half((rows,), positions + shift)[1]
        for one, shift in ((pairs, len(rows)), (SentencePairs([END], FRAME, 18), 0))
    )
    assert (again == labels).all()
    for other in (next_epoch, other_seed):
        assert 0.4 < (other != labels)[labels != IGNORED].mean() < 0.6, "drawn anew"


@pytest.fixture
def stream(corpus_folder, tmp_path):
    """Pairs of a corpus whose commonest piece is taken for an end of sentences."""
    manifest = load_manifest(corpus_folder)
    worded = with_word_planes(manifest, tmp_path / "words")
    masking = MaskingSettings(whole_words=True, max_ngram=3)
    settings = {"rows_per_step": 12, "bucket_steps": 4, "gives_draws": True}
    return RowStream(worded, L, 17, kind="pairs", masking=masking, sentence_ends=[5, 9, 13], **settings)


def test_batches_are_the_same_at_every_world_size_and_resume_point(stream):
    take = lambda count, *arguments: list(islice(stream.batches(*arguments), count))  # noqa: E731
    whole = take(40, 0, 12)
    labels = torch.cat([batch["order_labels"] for batch in whole])
    assert {-100, 0, 1} == set(labels.tolist())
    for position, world_size in ((0, 2), (36, 3), (120, 4)):
        ranks = [take(2, position, 12 // world_size, rank, world_size) for rank in range(world_size)]
        for step, expected in enumerate(whole[position // 12 : position // 12 + 2]):
            for name, tensor in expected.items():
                for rank in range(world_size):
                    assert torch.equal(ranks[rank][step][name], tensor[rank::world_size]), name


def test_types_tell_the_texts_as_they_stand_and_draws_lie_below_one(stream):
    batch = next(iter(stream.batches(0, 240)))
    sep = stream._frame.sep
    for ids, types, label in zip(batch["input_ids"], batch["token_type_ids"], batch["order_labels"], strict=True):
        first = (ids == sep).nonzero()[0].item()
        assert not types[: first + 1].any() and (types.sum() > 1) == (label != IGNORED)
    draws = batch["draws"]
    assert draws.dtype == torch.float64 and draws.shape == batch["input_ids"].shape
    assert 0 <= draws.min() < 0.01 and 0.99 < draws.max() < 1 and abs(draws.mean() - 0.5) < 0.02
    assert draws.unique().numel() == draws.numel()
    plain = {"order_labels", "draws"} & set(next(iter(stream.rows_of([0]))))
    assert not plain, "rows that are read for other purposes are not swapped"


def test_pieces_that_end_sentences_are_found_or_the_tokenizer_is_refused(tmp_path, wordpiece):
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "。", "，", "？！", "天", "。天"])
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert sentence_end_ids("mine", load_tokenizer(str(tmp_path))) == [5, 7]
    with pytest.raises(ValueError, match=re.escape("the tokenizer mine has no piece that ends a sentence, of ! ; ?")):
        sentence_end_ids("mine", load_tokenizer(str(wordpiece)))


def test_a_block_without_ends_is_rows_of_one_text():
    ids, lengths = np.arange(20, 60), np.array([3, 37])
    pairs = SentencePairs([END], FRAME, 17)
    rows = pairs.builder(ids)(ids, lengths, L, FRAME)
    assert [len(texts_of(row)) for row in rows] == [1] * len(rows)
    assert list(chain(*(text for row in rows for text in texts_of(row)))) == ids.tolist()
    (unchanged,), labels = pairs.swap_half((rows,), np.arange(len(rows)))
    assert (unchanged == rows).all() and set(labels) == {IGNORED}
