"""Rows of a block's documents: packed one after another, or pairs of consecutive text of one document.

packed  `CLS text SEP text SEP`: documents with a SEP between them, cut to fill rows; only a block's last is padded.
pairs   `CLS A SEP B SEP`: each document in as many equal parts as it needs rows, each part cut in two at a place
        that depends on the row's number, as BERT's pretraining data are; what is left of a row is padded. A
        document of a single token has no B: `CLS A SEP`.

empty   `CLS SEP` and padding, in place of a row whose block is damaged; no other row has fewer than three tokens.

No token is dropped or repeated. L is row_tokens. The builders lay out word planes as they do ids.
"""

from typing import Any, Literal, get_args

import numpy as np

from corpus.permutation import mix

MIN_ROW_TOKENS = 8
RowKind = Literal["packed", "pairs"]


def check_rows(kind: str, row_tokens: int) -> None:
    """ValueError for rows that cannot be built."""
    if kind not in get_args(RowKind):
        raise ValueError(f"there are no rows of kind {kind!r}; there are {', '.join(get_args(RowKind))}")
    if row_tokens < MIN_ROW_TOKENS:
        raise ValueError(f"row_tokens is {row_tokens}, but must be at least {MIN_ROW_TOKENS}")


def num_packed_rows(num_tokens: Any, num_documents: Any, row_tokens: int) -> Any:
    """Packed rows that a block gives, for scalars and arrays alike: no block need be read to know.

    A block's tokens with a SEP between documents are cut in pieces that leave room for CLS and SEP.
    """
    return -((num_tokens + num_documents - 1) // -(row_tokens - 2))


def build_packed_rows(
    values: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Rows [rows, L] of the values [tokens] of documents of `lengths`."""
    stream = np.insert(values, np.cumsum(lengths)[:-1], sep_id)
    count = num_packed_rows(len(values), len(lengths), row_tokens)
    pieces = np.full(count * (row_tokens - 2), pad_id, dtype=values.dtype)
    pieces[: len(stream)] = stream
    rows = np.empty((count, row_tokens), dtype=values.dtype)
    rows[:, 0] = cls_id
    rows[:, 1:-1] = pieces.reshape(count, -1)
    rows[:, -1] = sep_id
    if num_padding := len(pieces) - len(stream):
        rows[-1, -1] = pad_id
        rows[-1, -1 - num_padding] = sep_id
    return rows


def build_empty_rows(
    num_rows: int, row_tokens: int, dtype: np.dtype, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Rows [num_rows, L] without text."""
    rows = np.full((num_rows, row_tokens), pad_id, dtype=dtype)
    rows[:, 0], rows[:, 1] = cls_id, sep_id
    return rows


def num_pair_rows(lengths: np.ndarray, row_tokens: int) -> np.ndarray:
    """Pair rows [documents] that documents of `lengths` give: room for CLS and two SEP is left."""
    return -(lengths // -(row_tokens - 3))


def build_pair_rows(
    values: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Rows [rows, L] of the values [tokens] of documents of `lengths`."""
    parts = num_pair_rows(lengths, row_tokens)
    document = np.repeat(np.arange(len(lengths)), parts)  # [rows]
    part = np.arange(len(document)) - (np.cumsum(parts) - parts)[document]
    sizes = (part + 1) * lengths[document] // parts[document] - part * lengths[document] // parts[document]
    random = mix(np.arange(len(document), dtype=np.uint64)) >> np.uint64(1)
    size_of_a = 1 + random.astype(np.int64) % np.maximum(sizes - 1, 1)

    columns = np.arange(row_tokens, dtype=np.int32)
    middle = (size_of_a + 1).astype(np.int32)[:, None]
    ends = (sizes + 1 + (sizes > size_of_a)).astype(np.int32)[:, None]  # the last SEP of each row
    is_text = (columns > 0) & (columns < ends) & (columns != middle)
    rows = np.full((len(document), row_tokens), pad_id, dtype=values.dtype)
    rows[is_text] = values  # row after row, which is in the documents' order
    every = np.arange(len(document))
    rows[every, middle[:, 0]] = rows[every, ends[:, 0]] = sep_id
    rows[:, 0] = cls_id
    return rows
