"""Rows of a fixed length from a block's documents: packed, pairs of consecutive texts of a document, or single texts.

packed  `CLS text SEP text SEP`: documents joined by SEP and split into full rows; only a block's last row is padded.
apart   `CLS text SEP CLS text SEP`: packed documents that each begin with a CLS, so that each can be read alone. A row
        that would end or begin between two documents has up to two tokens of padding instead.
pairs   `CLS A SEP B SEP`: each document is split into as few equal parts as fit rows, each part into A and B at a
        place that depends on the row's number, as in BERT's pretraining data; rows are padded. A document of a single
        token has no B: `CLS A SEP`.
texts   `CLS text SEP`: a document a row, split into as few equal parts as fit rows; rows are padded.
empty   `CLS SEP` and padding, in place of a row whose block is damaged. Only these rows have fewer than three tokens.

No token is dropped or repeated. L is row_tokens. Word planes are arranged like ids.
"""

from typing import Any, Literal, get_args

import numpy as np

from corpus.permutation import mix

MIN_ROW_TOKENS = 8
RowKind = Literal["packed", "pairs", "texts"]
_SEPARATORS = 2  # tokens between documents that are apart: SEP and CLS


def check_rows(kind: str, row_tokens: int) -> None:
    """Raise ValueError for an unknown kind of rows, or rows that are too short."""
    if kind not in get_args(RowKind):
        raise ValueError(f"there are no rows of kind {kind!r}; there are {', '.join(get_args(RowKind))}")
    if row_tokens < MIN_ROW_TOKENS:
        raise ValueError(f"row_tokens is {row_tokens}, but must be at least {MIN_ROW_TOKENS}")


def num_packed_rows(num_tokens: Any, num_documents: Any, row_tokens: int, apart: bool = False) -> Any:
    """Return the number of packed rows of blocks, from the manifest alone; for scalars and arrays alike.

    A block's tokens, with a SEP (or SEP and CLS) between documents, are split into pieces that leave room for CLS and
    SEP.
    """
    between = _SEPARATORS if apart else 1
    return -((num_tokens + between * (num_documents - 1)) // -(row_tokens - 2))


def build_packed_rows(
    values: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Return the packed rows [rows, L] of a block's documents.

    Args:
        values: ids, or another value for each token, [tokens].
        lengths: tokens of each document, int64 [documents].
        cls_id, sep_id, pad_id: values for the special tokens.
    """
    stream = np.insert(values, np.cumsum(lengths)[:-1], sep_id)
    return _split_into_rows(stream, row_tokens, cls_id, sep_id, pad_id)


def build_apart_rows(
    values: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Return rows [rows, L] in which every document has its own CLS; arguments as for `build_packed_rows`."""
    width, cuts = row_tokens - 2, np.cumsum(lengths)[:-1]
    separators = np.tile(np.array([sep_id, cls_id], dtype=values.dtype), len(cuts))
    stream = np.insert(values, np.repeat(cuts, _SEPARATORS), separators)
    rows = _split_into_rows(stream, row_tokens, cls_id, sep_id, pad_id)
    row, place = np.divmod(cuts + _SEPARATORS * np.arange(len(cuts)), width)  # of the SEP after each document
    # Where a row ends between two documents, it has one SEP too many, or also the CLS of the next
    rows[row[place == width - 1], -1] = pad_id
    rows[row[place == width - 2], -2:] = pad_id
    # and the next row begins with the rest of the separators
    for surplus, where in ((1, row[place == width - 1] + 1), (2, row[place == 0])):
        rows[where, :-surplus] = rows[where, surplus:]
        rows[where, -surplus:] = pad_id
    return rows


def _split_into_rows(stream: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int) -> np.ndarray:
    """Return a block's tokens in rows `CLS .. SEP` [rows, L]; the last row is padded."""
    count = -(len(stream) // -(row_tokens - 2))
    pieces = np.full(count * (row_tokens - 2), pad_id, dtype=stream.dtype)
    pieces[: len(stream)] = stream
    rows = np.empty((count, row_tokens), dtype=stream.dtype)
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
    """Return rows without text, [num_rows, L]."""
    rows = np.full((num_rows, row_tokens), pad_id, dtype=dtype)
    rows[:, 0], rows[:, 1] = cls_id, sep_id
    return rows


def num_padded_rows(kind: RowKind, lengths: np.ndarray, row_tokens: int) -> np.ndarray:
    """Return the number of rows of each document, int64 [documents], for rows that are not packed."""
    special = {"pairs": 3, "texts": 2}[kind]
    return -(lengths // -(row_tokens - special))


def build_text_rows(
    values: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Return the rows [rows, L] of a block's documents one by one; arguments as for `build_packed_rows`."""
    sizes = _sizes_of_parts(lengths, num_padded_rows("texts", lengths, row_tokens))
    columns = np.arange(row_tokens)
    rows = np.full((len(sizes), row_tokens), pad_id, dtype=values.dtype)
    rows[(columns > 0) & (columns <= sizes[:, None])] = values  # row by row, in the order of the documents
    rows[np.arange(len(rows)), sizes + 1] = sep_id
    rows[:, 0] = cls_id
    return rows


def _sizes_of_parts(lengths: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the tokens of each part, int64 [rows], of documents that are split into so many nearly equal parts."""
    document = np.repeat(np.arange(len(lengths)), parts)  # [rows]
    part = np.arange(len(document)) - (np.cumsum(parts) - parts)[document]
    return (part + 1) * lengths[document] // parts[document] - part * lengths[document] // parts[document]


def build_pair_rows(
    values: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Return the pair rows [rows, L] of a block's documents; arguments as for `build_packed_rows`."""
    sizes = _sizes_of_parts(lengths, num_padded_rows("pairs", lengths, row_tokens))
    random = mix(np.arange(len(sizes), dtype=np.uint64)) >> np.uint64(1)
    size_of_a = 1 + random.astype(np.int64) % np.maximum(sizes - 1, 1)

    columns = np.arange(row_tokens, dtype=np.int32)
    middle = (size_of_a + 1).astype(np.int32)[:, None]
    ends = (sizes + 1 + (sizes > size_of_a)).astype(np.int32)[:, None]  # index of the last SEP of each row
    is_text = (columns > 0) & (columns < ends) & (columns != middle)
    rows = np.full((len(sizes), row_tokens), pad_id, dtype=values.dtype)
    rows[is_text] = values  # row by row, in the order of the documents
    every = np.arange(len(sizes))
    rows[every, middle[:, 0]] = rows[every, ends[:, 0]] = sep_id
    rows[:, 0] = cls_id
    return rows
