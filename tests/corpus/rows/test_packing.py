from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.rows.packing import (
    Frame,
    build_apart_rows,
    build_packed_rows,
    build_pair_rows,
    build_text_rows,
    check_frame,
    num_packed_rows,
    num_padded_rows,
)

CLS, SEP, PAD = 2, 3, 0
FRAME = Frame(CLS, SEP, PAD)
DOCUMENTS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def block(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids that tell where each stands, and lengths."""
    return np.arange(10, 10 + sum(lengths), dtype=np.uint16), np.array(lengths)


@given(DOCUMENTS, st.integers(8, 30))
def test_packed_rows_hold_every_token_once_and_in_order(lengths, row_tokens):
    ids, lengths = block(lengths)
    rows = build_packed_rows(ids, lengths, row_tokens, FRAME)
    assert rows.shape == (num_packed_rows(len(ids), len(lengths), row_tokens), row_tokens) and rows.dtype == np.uint16
    stream = []
    for index, row in enumerate(rows.tolist()):
        real = [token for token in row if token != PAD]
        assert row[: len(real)] == real and row[0] == CLS and real[-1] == SEP and len(real) > 2
        assert len(real) == row_tokens or index == len(rows) - 1
        stream += real[1:-1]
    documents = np.split(ids, np.cumsum(lengths)[:-1])
    assert stream == [token for document in documents for token in [SEP, *document.tolist()]][1:]


@given(DOCUMENTS, st.integers(8, 30))
def test_rows_apart_give_every_document_its_own_cls(lengths, row_tokens):
    ids, lengths = block(lengths)
    rows = build_apart_rows(ids, lengths, row_tokens, FRAME)
    assert rows.shape == (num_packed_rows(len(ids), len(lengths), row_tokens, apart=True), row_tokens)
    document_of, text = np.repeat(np.arange(len(lengths)), lengths), []
    for index, row in enumerate(rows.tolist()):
        real = [token for token in row if token != PAD]
        assert row[: len(real)] == real and real[-1] == SEP
        assert len(real) >= row_tokens - 3 or index == len(rows) - 1, "no more than the separators is lost"
        begins = [place for place, token in enumerate(real) if token == CLS]
        assert begins[0] == 0
        for begin, after in pairwise([*begins, len(real)]):
            _, *tokens, end = real[begin:after]
            assert tokens and end == SEP and len({document_of[token - 10] for token in tokens}) == 1
            text += tokens
    assert text == ids.tolist()


@pytest.mark.parametrize("first", range(1, 16))
def test_rows_apart_at_every_place_of_a_cut(first):
    ids, lengths = block([first, 9])
    rows = build_apart_rows(ids, lengths, 8, FRAME)
    expected = {
        3: [[2, 10, 11, 12, 3, 2, 13, 3]],
        4: [[2, 10, 11, 12, 13, 3, 0, 0], [2, 14, 15, 16, 17, 18, 19, 3]],
        5: [[2, 10, 11, 12, 13, 14, 3, 0], [2, 15, 16, 17, 18, 19, 3, 0]],
        6: [[2, 10, 11, 12, 13, 14, 15, 3], [2, 16, 17, 18, 19, 3, 0, 0]],
    }.get(first, [])
    assert rows[: len(expected)].tolist() == expected
    assert [token for token in rows.ravel().tolist() if token >= 10] == ids.tolist()


@pytest.mark.parametrize("num_tokens", [1, 5, 6, 7, 12])
def test_packed_rows_at_the_edges_of_a_piece(num_tokens):
    ids, lengths = block([num_tokens])
    rows = build_packed_rows(ids, lengths, 8, FRAME)
    assert len(rows) == num_packed_rows(num_tokens, 1, 8)
    assert [token for row in rows.tolist() for token in row if token >= 10] == ids.tolist()


@given(DOCUMENTS, st.integers(8, 30))
def test_pairs_are_consecutive_text_of_one_document(lengths, row_tokens):
    ids, lengths = block(lengths)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    rows = build_pair_rows(ids, lengths, row_tokens, FRAME)
    num_rows = num_padded_rows("pairs", lengths, row_tokens).sum()
    assert rows.shape == (num_rows, row_tokens) and rows.dtype == np.uint16
    text = []
    for row in rows.tolist():
        real = [token for token in row if token != PAD]
        assert row[: len(real)] == real and row[0] == CLS and real[-1] == SEP
        middle = real.index(SEP)
        first, second = real[1:middle], real[middle + 1 : -1]
        assert first and SEP not in second
        both = first + second
        assert both == list(range(both[0], both[-1] + 1))
        assert document_of[both[0] - 10] == document_of[both[-1] - 10]
        assert second or lengths[document_of[both[0] - 10]] == 1
        text += both
    assert text == ids.tolist()


@given(DOCUMENTS, st.integers(8, 30))
def test_texts_are_documents_in_as_few_equal_rows_as_hold_them(lengths, row_tokens):
    ids, lengths = block(lengths)
    rows = build_text_rows(ids, lengths, row_tokens, FRAME)
    numbers = num_padded_rows("texts", lengths, row_tokens)
    assert rows.shape == (numbers.sum(), row_tokens) and rows.dtype == np.uint16
    assert numbers.tolist() == [-(length // -(row_tokens - 2)) for length in lengths.tolist()]
    left = iter(rows.tolist())
    for document, number in zip(np.split(ids, np.cumsum(lengths)[:-1]), numbers.tolist(), strict=True):
        texts = []
        for row in (next(left) for _ in range(number)):
            real = [token for token in row if token != PAD]
            assert row[: len(real)] == real and (real[0], real[-1]) == (CLS, SEP)
            texts.append(real[1:-1])
        assert [token for text in texts for token in text] == document.tolist()
        assert max(map(len, texts)) - min(map(len, texts)) <= 1


def test_pairs_are_cut_at_all_places():
    ids, lengths = block([9] * 400)
    rows = build_pair_rows(ids, lengths, 12, FRAME)
    places = np.argmax(rows == SEP, axis=1)
    counts = np.bincount(places, minlength=10)
    assert counts[2:].min() > 20 and counts[2:].sum() == 400


@given(DOCUMENTS, st.integers(8, 20))
def test_word_planes_are_arranged_like_ids(lengths, row_tokens):
    ids, lengths = block(lengths)
    for build in (build_packed_rows, build_apart_rows, build_pair_rows, build_text_rows):
        rows = build(ids, lengths, row_tokens, FRAME)
        planes = build(ids % 2 == 1, lengths, row_tokens, FRAME.of_planes)
        assert planes.dtype == bool and (planes == ((rows % 2 == 1) & (rows >= 10))).all()


@given(DOCUMENTS, st.integers(8, 30), st.sampled_from([(CLS, None), (None, SEP), (None, None)]))
def test_rows_are_framed_as_the_tokenizer_frames_a_text(lengths, row_tokens, sides):
    ids, lengths = block(lengths)
    frame = Frame(*sides, PAD)
    documents = [document.tolist() for document in np.split(ids, np.cumsum(lengths)[:-1])]
    framing = len(frame.before) + len(frame.after)

    rows = build_text_rows(ids, lengths, row_tokens, frame)
    numbers = num_padded_rows("texts", lengths, row_tokens, framing)
    assert rows.shape == (numbers.sum(), row_tokens)
    pieces = [[token for token in row if token != PAD] for row in rows.tolist()]
    assert all(piece[:1] == frame.before for piece in pieces if frame.before)
    assert all(piece[-1:] == frame.after for piece in pieces if frame.after)
    assert [token for piece in pieces for token in piece if token >= 10] == ids.tolist()

    for build, apart in ((build_packed_rows, False), (build_apart_rows, True)):
        rows = build(ids, lengths, row_tokens, frame)
        assert rows.shape == (num_packed_rows(len(ids), len(lengths), row_tokens, apart, framing), row_tokens)
        assert rows[rows >= 10].tolist() == ids.tolist()
        real = [[token for token in row if token != PAD] for row in rows.tolist()]
        assert all(row[: len(kept)] == kept for row, kept in zip(rows.tolist(), real, strict=True))
        if not framing or not apart:
            continue
        ends = [{document[-1] for document in documents}, {document[0] for document in documents}]
        for row in real:  # one separator between two documents, none twice, none alone at a row's end
            marks = [place for place, token in enumerate(row) if token < 10]
            assert all(after - before > 1 for before, after in pairwise(marks))
            assert marks[0] == 0 if frame.before else marks[-1] == len(row) - 1
            inner = [place for place in marks if 0 < place < len(row) - 1]
            assert all(row[place - 1] in ends[0] and row[place + 1] in ends[1] for place in inner)


def test_rows_that_need_tokens_around_texts_are_refused():
    with pytest.raises(ValueError, match="rows of pairs need a token before a text and one after it"):
        check_frame("pairs", Frame(None, SEP, PAD), False, False)
    with pytest.raises(ValueError, match="documents apart in packed rows: needs a token before or after a text"):
        check_frame("packed", Frame(None, None, PAD), True, False)
    with pytest.raises(ValueError, match='on_fault "skip": needs a token before or after a text'):
        check_frame("texts", Frame(None, None, PAD), False, True)
    check_frame("packed", Frame(None, SEP, PAD), True, True)
