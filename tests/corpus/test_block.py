import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.block import build_rows, num_rows, pack, unpack

CLS, SEP, PAD = 2, 3, 0
DOCUMENTS = st.lists(st.lists(st.integers(4, 60_000), min_size=1, max_size=40), min_size=1, max_size=12)


@given(DOCUMENTS, st.sampled_from([np.uint16, np.uint32]))
def test_unpack_gives_back_what_was_packed(documents, dtype):
    frame = pack([np.array(ids, dtype=dtype) for ids in documents])
    total = sum(map(len, documents))
    ids, lengths = unpack(frame, np.dtype(dtype), total, len(documents))
    assert ids.dtype == dtype and ids.tolist() == [token for ids in documents for token in ids]
    assert lengths.tolist() == list(map(len, documents))


@given(DOCUMENTS, st.integers(8, 30))
def test_rows_hold_every_token_once_and_in_order(documents, row_tokens):
    ids = np.array([token for document in documents for token in document], dtype=np.uint16)
    lengths = np.array(list(map(len, documents)))
    rows = build_rows(ids, lengths, row_tokens, CLS, SEP, PAD)
    assert rows.shape == (num_rows(len(ids), len(lengths), row_tokens), row_tokens) and rows.dtype == np.uint16
    stream = []
    for index, row in enumerate(rows.tolist()):
        real = [token for token in row if token != PAD]
        assert row[: len(real)] == real and row[0] == CLS and real[-1] == SEP and len(real) > 2
        assert len(real) == row_tokens or index == len(rows) - 1
        stream += real[1:-1]
    expected = [token for document in documents for token in [SEP, *document]][1:]
    assert stream == expected


@pytest.mark.parametrize("num_tokens", [1, 5, 6, 7, 12])
def test_rows_at_the_edges_of_a_piece(num_tokens):
    ids = np.arange(10, 10 + num_tokens, dtype=np.uint16)
    rows = build_rows(ids, np.array([num_tokens]), 8, CLS, SEP, PAD)
    assert len(rows) == num_rows(num_tokens, 1, 8)
    assert [token for row in rows.tolist() for token in row if token >= 10] == ids.tolist()


def test_short_rows_are_refused():
    with pytest.raises(ValueError, match="row_tokens is 7, but must be at least 8"):
        num_rows(100, 1, 7)


def test_what_the_manifest_did_not_tell_is_refused():
    frame = pack([np.arange(10, dtype=np.uint16), np.arange(4, dtype=np.uint16)])
    dtype = np.dtype(np.uint16)
    with pytest.raises(ValueError, match="size is not that of its documents and tokens"):
        unpack(frame, dtype, 15, 2)
    with pytest.raises(ValueError, match="header does not hold the documents and tokens"):
        unpack(frame, dtype, 16, 1)  # as many bytes, told otherwise
    with pytest.raises(ValueError, match="cannot be decompressed"):
        unpack(frame[:-2], dtype, 14, 2)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        unpack(b"no frame at all", dtype, 14, 2)
