import zipfile
from pathlib import Path

import datasets
import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from corpus.document import Document, Reason, Reject
from corpus.reading.formats import read_documents
from corpus.reading.parts import find_parts
from corpus.reading.streams import read_stored, read_streams
from corpus.reading.tables import find_dataset_files

ROWS = [{"text": f"第{index}行\n文", "id": index, "more": [1.5, None]} for index in range(3000)]


def read(*inputs) -> list[Document | Reject]:
    """Through the reader of files; what it hashes must be what is stored."""
    items = []
    for part in find_parts(inputs):
        seen: list[bytes] = []
        for name, lines in read_streams(part, seen.append):
            items += read_documents("jsonl", lines, name, ("text",), "id")
        assert b"".join(seen) == b"".join(read_stored(part)) and not (
            part.is_splittable and "parquet" in part.name.lower()
        )
    return items


def save_parquet(path: Path, rows=ROWS) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    return path


def test_parquet_rows_are_documents(tmp_path):
    items = read(save_parquet(tmp_path / "a.parquet"))
    assert items == [Document(row["text"], f"a.parquet:{row['id'] + 1}", str(row["id"])) for row in ROWS]


def test_columns_of_any_type_are_read(tmp_path):
    others = {"day": pa.array([0, 1], pa.date32()), "raw": [b"\xff", b""], "n": pa.array([2**63, 1], pa.uint64())}
    parquet.write_table(pa.table({"text": ["文", None], **others}), tmp_path / "a.parquet")
    rejected = Reject(Reason.FIELD_NOT_A_STRING, "a.parquet:2")
    assert read(tmp_path / "a.parquet") == [Document("文", "a.parquet:1"), rejected]


def test_text_in_a_column_of_bytes_is_text(tmp_path):
    raw = pa.array(["天地玄黄".encode(), b"\xff", None], pa.binary())
    parquet.write_table(pa.table({"text": raw}), tmp_path / "A.PARQUET")
    rejected = [Reject(Reason.FIELD_NOT_A_STRING, f"A.PARQUET:{row}") for row in (2, 3)]
    assert read(tmp_path / "A.PARQUET") == [Document("天地玄黄", "A.PARQUET:1"), *rejected]


def test_a_row_that_is_not_utf8_is_rejected_alone(tmp_path):
    buffers = pa.array([b"a", b"\xff\xff", b"b"]).buffers()
    parquet.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 3, buffers)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        Document("a", "a.parquet:1"),
        Reject(Reason.INVALID_UTF8, "a.parquet:2"),
        Document("b", "a.parquet:3"),
    ]


@pytest.mark.parametrize("cut", [10, 1000])
def test_a_damaged_table_is_named(tmp_path, cut):
    path = save_parquet(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"a\.parquet: cannot be read after row 0: "):
        read(path)


def test_a_truncated_arrow_file_is_named(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"\.arrow: cannot be read after row \d+: "):
        read(path)


def test_an_arrow_stream_must_end_where_its_file_does(tmp_path):
    path, table = tmp_path / "a.arrow", pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        for batch in table.to_batches(max_chunksize=1000):
            stream.write_batch(batch)
    whole = path.read_bytes()
    assert len(read(path)) == 3000
    # Cut between two batches, where pyarrow takes the end of the file for that of the stream; another one behind it
    for data in (whole[:-8], whole + whole):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.arrow: cannot be read after row 3000: .*does not end where the file"):
            read(path)


def test_a_saved_dataset_reads_as_its_rows(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=3)
    items = read(f"datasets://{tmp_path / 'saved'}")
    assert [item.text for item in items] == [row["text"] for row in ROWS]
    assert items[0].place == "saved/data-00000-of-00003.arrow:1"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset of files, as on the hub: two splits of Parquet, one more of JSON lines."""
    (tmp_path / "set" / "data").mkdir(parents=True)
    for index, split in enumerate(("train-0", "train-1", "test-0")):
        save_parquet(tmp_path / "set" / "data" / f"{split}.parquet", ROWS[10 * index : 10 * index + 10])
    return tmp_path / "set"


def test_a_dataset_of_files_reads_split_by_split(folder):
    items = read(f"datasets://{folder}")
    assert [item.text for item in items] == [row["text"] for row in ROWS[:20]]
    assert items[0].place == "set/data/train-0.parquet:1"
    assert [item.text for item in read(f"datasets://{folder}?split=test")] == [row["text"] for row in ROWS[20:30]]


def test_a_dataset_of_json_lines(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, ROWS)))
    assert [item.text for item in read(f"datasets://{tmp_path / 'set'}")] == [row["text"] for row in ROWS]


def test_missing_datasets_and_splits_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"set.*: has no split dev; it has train, test"):
        find_dataset_files(f"datasets://{folder}?split=dev")
    with pytest.raises(ValueError, match="unknown option color; there are subset and split"):
        find_dataset_files(f"datasets://{folder}?color=red")
    with pytest.raises(ValueError, match="cannot be found: "):
        find_dataset_files(f"datasets://{tmp_path / 'none'}")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text("text\n文\n")
    with pytest.raises(ValueError, match=r"its files are \.csv; Parquet, Arrow and JSON lines can be read"):
        find_dataset_files(f"datasets://{tmp_path / 'csv'}")


def test_a_table_inside_an_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(save_parquet(tmp_path / "a.parquet"), "b.parquet")
    with pytest.raises(ValueError, match=r"a\.zip/b\.parquet: a table inside an archive cannot be read"):
        read(tmp_path / "a.zip")


def test_the_hub_is_asked_for_the_split_and_the_subset(monkeypatch):
    """The hub itself cannot be asked here; what it answers looks so."""
    files = {"train": ["hf://datasets/o/n@abc123/zh/train-0.parquet", "hf://datasets/o/n@abc123/zh/train-1.parquet"]}
    asked = []

    def builder(*names):
        asked.append(names)
        return type("Builder", (), {"config": type("Config", (), {"data_files": files})})

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    found = find_dataset_files("datasets://o/n?subset=zh")
    assert asked == [("o/n", "zh")] and list(found.values()) == files["train"]
    assert list(found) == ["n/abc123/zh/train-0.parquet", "n/abc123/zh/train-1.parquet"]
