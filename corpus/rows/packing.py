"""Rows of a fixed length from a block's documents: packed, pairs of consecutive texts of a document, or single texts.

packed  `CLS text SEP text SEP`: documents joined by SEP and split into full rows; only a block's last row is padded.
apart   `CLS text SEP CLS text SEP`: packed documents that each begin with a CLS, so that each can be read alone. A row
        that would end or begin between two documents has up to two tokens of padding instead.
pairs   `CLS A SEP B SEP`: each document is split into as few equal parts as fit rows, each part into A and B at a
        place that depends on the row's number, as in BERT's pretraining data; rows are padded. A document of a single
        token has no B: `CLS A SEP`.
texts   `CLS text SEP`: a document a row, split into as few equal parts as fit rows; rows are padded.
empty   `CLS SEP` and padding, in place of a row whose block is damaged. Only these rows have fewer than three tokens.

CLS and SEP are what the tokenizer puts before and after a text. One that puts nothing on a side leaves it out here too;
without SEP, packed documents are joined by CLS.

No token is dropped or repeated. L is row_tokens. Word planes are arranged like ids.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from corpus.permutation import mix

MIN_ROW_TOKENS = 8
RowKind = Literal["packed", "pairs", "texts"]


class Frame(NamedTuple):
    """The values around a text: CLS before it and SEP after it, None where nothing stands, and padding."""

    cls: int | None
    sep: int | None
    pad: int

    @property
    def before(self) -> list[int]:
        """What stands before a text: at most one value."""
        return [] if self.cls is None else [self.cls]

    @property
    def after(self) -> list[int]:
        """What stands after a text: at most one value."""
        return [] if self.sep is None else [self.sep]

    @property
    def num_tokens(self) -> int:
        """Tokens around a text, 0 to 2."""
        return len(self.before) + len(self.after)

    @property
    def of_planes(self) -> "Frame":
        """The frame of word planes: zeros in the same places."""
        return Frame(None if self.cls is None else 0, None if self.sep is None else 0, 0)


def check_rows(kind: str, row_tokens: int) -> None:
    """Raise ValueError for an unknown kind of rows, or rows that are too short."""
    if kind not in get_args(RowKind):
        raise ValueError(f"there are no rows of kind {kind!r}; there are {', '.join(get_args(RowKind))}")
    if row_tokens < MIN_ROW_TOKENS:
        raise ValueError(f"row_tokens is {row_tokens}, but must be at least {MIN_ROW_TOKENS}")


def check_frame(kind: str, frame: Frame, documents_apart: bool, skips_damaged: bool) -> None:
    """Raise ValueError for rows that need a token before or after texts where the tokenizer puts none."""
    if kind == "pairs" and frame.num_tokens < 2:
        raise ValueError(
            "rows of pairs need a token before a text and one after it, as BERT's tokenizer has; with this one take "
            "rows that are packed, or texts"
        )
    for wanted, what in ((documents_apart, "documents apart in packed rows"), (skips_damaged, 'on_fault "skip"')):
        if wanted and not frame.num_tokens:
            raise ValueError(f"{what}: needs a token before or after a text, and this tokenizer puts none there")


def num_packed_rows(
    num_tokens: Any, num_documents: Any, row_tokens: int, apart: bool = False, num_framing: int = 2
) -> Any:
    """Return the number of packed rows of blocks, from the manifest alone; for scalars and arrays alike.

    A block's tokens, with a SEP (or SEP and CLS) between documents, are split into pieces that leave room for CLS and
    SEP, of which there are `num_framing`.
    """
    between = num_framing if apart else min(num_framing, 1)
    return -((num_tokens + between * (num_documents - 1)) // -(row_tokens - num_framing))


def build_packed_rows(values: np.ndarray, lengths: np.ndarray, row_tokens: int, frame: Frame) -> np.ndarray:
    """Return the packed rows [rows, L] of a block's documents.

    Args:
        values: ids, or another value for each token, [tokens].
        lengths: tokens of each document, int64 [documents].
        frame: values for the special tokens.
    """
    for separator in (*frame.after, *frame.before)[:1]:
        values = np.insert(values, np.cumsum(lengths)[:-1], separator)
    return _split_into_rows(values, row_tokens, frame)


def build_apart_rows(values: np.ndarray, lengths: np.ndarray, row_tokens: int, frame: Frame) -> np.ndarray:
    """Return rows [rows, L] in which every document is framed by itself; arguments as for `build_packed_rows`."""
    between = [*frame.after, *frame.before]
    count, width, cuts = len(between), row_tokens - frame.num_tokens, np.cumsum(lengths)[:-1]
    separators = np.tile(np.array(between, dtype=values.dtype), len(cuts))
    stream = np.insert(values, np.repeat(cuts, count), separators)
    rows = _split_into_rows(stream, row_tokens, frame)
    row, place = np.divmod(cuts + count * np.arange(len(cuts)), width)  # of the first separator after each document
    every = range(1, count + 1)
    for (
        surplus
    ) in every:  # where a row ends between two documents, it has one SEP too many, or also the CLS of the next
        rows[row[place == width - surplus], -surplus:] = frame.pad
    for surplus in every:  # and the next row begins with the rest of the separators
        where = row[place == 0] if surplus == count else row[place == width - count + surplus] + 1
        rows[where, :-surplus] = rows[where, surplus:]
        rows[where, -surplus:] = frame.pad
    return rows


def _split_into_rows(stream: np.ndarray, row_tokens: int, frame: Frame) -> np.ndarray:
    """Return a block's tokens in rows `CLS .. SEP` [rows, L]; the last row is padded."""
    first, width = len(frame.before), row_tokens - frame.num_tokens
    count = -(len(stream) // -width)
    pieces = np.full(count * width, frame.pad, dtype=stream.dtype)
    pieces[: len(stream)] = stream
    rows = np.full((count, row_tokens), frame.pad, dtype=stream.dtype)
    rows[:, :first] = frame.before
    rows[:, first : first + width] = pieces.reshape(count, -1)
    rows[:, first + width :] = frame.after
    if num_padding := len(pieces) - len(stream):
        end = first + width - num_padding
        rows[-1, end:] = frame.pad
        rows[-1, end : end + len(frame.after)] = frame.after
    return rows


def build_empty_rows(num_rows: int, row_tokens: int, dtype: np.dtype, frame: Frame) -> np.ndarray:
    """Return rows without text, [num_rows, L]."""
    rows = np.full((num_rows, row_tokens), frame.pad, dtype=dtype)
    rows[:, : frame.num_tokens] = [*frame.before, *frame.after]
    return rows


def num_padded_rows(kind: RowKind, lengths: np.ndarray, row_tokens: int, num_framing: int = 2) -> np.ndarray:
    """Return the number of rows of each document, int64 [documents], for rows that are not packed."""
    special = {"pairs": 3, "texts": num_framing}[kind]
    return -(lengths // -(row_tokens - special))


def build_text_rows(values: np.ndarray, lengths: np.ndarray, row_tokens: int, frame: Frame) -> np.ndarray:
    """Return the rows [rows, L] of a block's documents one by one; arguments as for `build_packed_rows`."""
    sizes = sizes_of_parts(lengths, num_padded_rows("texts", lengths, row_tokens, frame.num_tokens))
    first, columns = len(frame.before), np.arange(row_tokens)
    rows = np.full((len(sizes), row_tokens), frame.pad, dtype=values.dtype)
    rows[(columns >= first) & (columns < first + sizes[:, None])] = values  # row by row, in the order of the documents
    rows[:, :first] = frame.before
    for token in frame.after:
        rows[np.arange(len(rows)), first + sizes] = token
    return rows


def sizes_of_parts(lengths: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the tokens of each part, int64 [rows], of documents that are split into so many nearly equal parts."""
    document = np.repeat(np.arange(len(lengths)), parts)  # [rows]
    part = np.arange(len(document)) - (np.cumsum(parts) - parts)[document]
    return (part + 1) * lengths[document] // parts[document] - part * lengths[document] // parts[document]


def build_pair_rows(values: np.ndarray, lengths: np.ndarray, row_tokens: int, frame: Frame) -> np.ndarray:
    """Return the pair rows [rows, L] of a block's documents; arguments as for `build_packed_rows`."""
    sizes = sizes_of_parts(lengths, num_padded_rows("pairs", lengths, row_tokens))
    random = mix(np.arange(len(sizes), dtype=np.uint64)) >> np.uint64(1)
    size_of_a = 1 + random.astype(np.int64) % np.maximum(sizes - 1, 1)

    columns = np.arange(row_tokens, dtype=np.int32)
    middle = (size_of_a + 1).astype(np.int32)[:, None]
    ends = (sizes + 1 + (sizes > size_of_a)).astype(np.int32)[:, None]  # index of the last SEP of each row
    is_text = (columns > 0) & (columns < ends) & (columns != middle)
    rows = np.full((len(sizes), row_tokens), frame.pad, dtype=values.dtype)
    rows[is_text] = values  # row by row, in the order of the documents
    every = np.arange(len(sizes))
    rows[every, middle[:, 0]] = rows[every, ends[:, 0]] = frame.sep
    rows[:, 0] = frame.cls
    return rows
