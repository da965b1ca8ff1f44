"""Tables as JSON lines: Parquet files, Arrow files, and the files of a Hugging Face dataset on the hub or in a folder.

A row becomes a JSON line of all its columns, so tables are read in the format jsonl, whose text_fields name columns.
"""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import parse_qsl

import orjson

from corpus.reading.bad_input import Damaged

SCHEME = "datasets://"
_ROWS_PER_BATCH = 1024
_TABLES = (".parquet", ".arrow")
_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
# Optional in the format, but every common writer adds it; without it a truncation between batches would go unnoticed.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
# A line for a row that is not UTF-8: the reader rejects and counts it.
_UNREADABLE = b"\xff"


def is_table(name: str) -> bool:
    """Whether a name has the suffix of a Parquet or Arrow file."""
    return name.lower().endswith(_TABLES)


def read_table(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the rows of a Parquet or Arrow stream file as JSON lines, numbered from 1, with one batch in memory.

    A row with text that is not UTF-8 becomes a line that is not UTF-8. Raises Damaged for a file that cannot be read
    to its end.
    """
    number = 0
    try:
        for batch in _read_batches(file, name):
            for line in _read_rows(batch):
                number += 1
                yield number, line
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise Damaged(name, f"cannot be read after row {number}: {error}") from error


def _read_batches(file: IO[bytes], name: str) -> Iterator[Any]:
    import pyarrow as pa  # takes half a second, so only for tables
    from pyarrow import parquet

    if name.lower().endswith(".parquet"):
        yield from parquet.ParquetFile(file).iter_batches(batch_size=_ROWS_PER_BATCH)
        return
    with pa.ipc.open_stream(file) as stream:
        for batch in stream:
            for start in range(0, len(batch), _ROWS_PER_BATCH):
                yield batch.slice(start, _ROWS_PER_BATCH)
        file.seek(-len(_END_OF_STREAM), io.SEEK_CUR)
        if file.read(len(_END_OF_STREAM) + 1) != _END_OF_STREAM:
            raise ValueError("the stream does not end where the file does; probably truncated")


def _read_rows(batch: Any) -> Iterator[bytes]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(len(batch)):
            try:
                yield _line(batch.slice(index, 1).to_pylist()[0])
            except UnicodeDecodeError:
                yield _UNREADABLE
        return
    yield from map(_line, rows)


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=_plain)


def _plain(value: Any) -> str | None:
    """Values that JSON lacks: bytes as text (Spark and Hive write strings so), other bytes as null, the rest by str."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def find_dataset_files(url: str) -> dict[str, str]:
    """Return the files of a dataset: paths or URLs by name.

    Args:
        url: `datasets://ID_OR_FOLDER?subset=NAME&split=NAME`; the split is train by default. A folder may be one that
            `save_to_disk` wrote. On the hub the files are those of one revision.

    Raises ValueError for a dataset or split that does not exist and for files that are neither tables nor JSON lines.
    """
    name, _, query = url.removeprefix(SCHEME).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - {"subset", "split"}):
        raise ValueError(f"{url}: unknown option {', '.join(unknown)}; there are subset and split")
    paths = _saved_files(Path(name)) or _resolved_files(url, name, options.get("subset"), options.get("split", "train"))
    if odd := sorted({PurePosixPath(path).suffix for path in paths if not path.endswith((*_TABLES, *_LINES))}):
        raise ValueError(f"{url}: its files are {', '.join(odd)}; Parquet, Arrow and JSON lines can be read")
    top = PurePosixPath(name).name
    return {f"{top}/{path.rpartition('@')[2].removeprefix(name).lstrip('/')}": path for path in paths}


def _saved_files(folder: Path) -> list[str]:
    """Files of a dataset that `save_to_disk` wrote; none if the folder is not one."""
    state = folder / "state.json"
    if not state.is_file():
        return []
    return [str(folder / entry["filename"]) for entry in orjson.loads(state.read_bytes())["_data_files"]]


def _resolved_files(url: str, name: str, subset: str | None, split: str) -> list[str]:
    import datasets

    try:
        files = datasets.load_dataset_builder(name, subset).config.data_files or {}
    except Exception as error:  # the library raises a dozen types for a missing dataset
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{url}: cannot be found: {reason}") from error
    if split not in files:
        raise ValueError(f"{url}: has no split {split}; it has {', '.join(map(str, files)) or 'none'}")
    return [str(file) for file in files[split]]
