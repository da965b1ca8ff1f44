import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.shards.block import pack, unpack

DOCUMENTS = st.lists(st.lists(st.integers(4, 60_000), min_size=1, max_size=40), min_size=1, max_size=12)


@given(DOCUMENTS, st.sampled_from([np.uint16, np.uint32]))
def test_unpack_gives_back_what_was_packed(documents, dtype):
    frame = pack([np.array(ids, dtype=dtype) for ids in documents])
    total = sum(map(len, documents))
    ids, lengths, plane = unpack(frame, np.dtype(dtype), total, len(documents))
    assert plane is None
    assert ids.dtype == dtype and ids.tolist() == [token for ids in documents for token in ids]
    assert lengths.tolist() == list(map(len, documents))


@given(DOCUMENTS)
def test_word_planes_are_stored_as_one_bit_a_token(documents):
    ids = [np.array(document, dtype=np.uint16) for document in documents]
    planes = [document % 2 == 1 for document in ids]
    total = sum(map(len, documents))
    block = unpack(pack(ids, planes), np.dtype(np.uint16), total, len(documents), has_word_planes=True)
    assert block.ids.tolist() == np.concatenate(ids).tolist()
    assert block.continues_word is not None and block.continues_word.dtype == bool
    assert block.continues_word.tolist() == np.concatenate(planes).tolist()
    with pytest.raises(ValueError, match="size is not that of its documents and tokens"):
        unpack(pack(ids), np.dtype(np.uint16), total, len(documents), has_word_planes=True)


def test_a_frame_that_differs_from_the_manifest_is_refused():
    frame = pack([np.arange(10, dtype=np.uint16), np.arange(4, dtype=np.uint16)])
    dtype = np.dtype(np.uint16)
    with pytest.raises(ValueError, match="size is not that of its documents and tokens"):
        unpack(frame, dtype, 15, 2)
    with pytest.raises(ValueError, match="header does not match the documents and tokens"):
        unpack(frame, dtype, 16, 1)  # the same number of bytes
    with pytest.raises(ValueError, match="cannot be decompressed"):
        unpack(frame[:-2], dtype, 14, 2)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        unpack(b"no frame at all", dtype, 14, 2)
