import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from corpus.building import join_step, read_step
from corpus.building.builder import build_corpus
from corpus.cleaning.cleaner import Cleaner
from corpus.config import BuildConfig, CleaningSettings
from corpus.document import Change, Document, Reason
from corpus.reading.formats import read_documents
from corpus.reading.parts import find_parts
from corpus.reading.streams import read_streams
from corpus.shards import block
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import read_block, verify
from corpus.vocabulary.tokenizer import load_tokenizer

SHARED = Path(__file__).parents[3] / "../shared/data"
FORMATS = {"wiki2019zh": "wiki_00.zst", "clue": "CLUECorpusSmall_bert_sampled.txt.zst"}


def config(tokenizer, output, *sources, **more) -> BuildConfig:
    state = {"sources": sources, "tokenizer": str(tokenizer), "output": str(output), **more}
    return BuildConfig.model_validate_json(json.dumps(state))


def source(path, format="lines", name="s", **fields) -> dict:
    return {"name": name, "format": format, "inputs": [str(path)], **fields}


def tokens_of(manifest) -> list[list[int]]:
    """Ids of every document of a corpus, in order."""
    documents = []
    for index in range(len(manifest.blocks)):
        ids, lengths, _ = read_block(manifest, index)
        documents += [piece.tolist() for piece in np.split(ids, np.cumsum(lengths)[:-1])]
    return documents


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_documents_come_back_whole_and_in_order(corpus_folder, documents, wordpiece):
    tokenizer = load_tokenizer(str(wordpiece))
    expected = tokenizer(documents, add_special_tokens=False)["input_ids"]
    assert tokens_of(load_manifest(corpus_folder)) == expected


def test_every_document_is_accounted_for(tmp_path, wordpiece):
    records = [
        {"id": 1, "b": "天地"},
        {"id": 2, "b": "\u200b "},
        {"id": 3, "b": "天\u3000地"},
        {"id": 4, "b": "天 地"},
    ]
    lines = [json.dumps(record) for record in records] + [
        "{",
        "[1]",
        '{"id": 7}',
        '{"b": 8}',
        '{"b": "天地"}',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(lines).encode() + b'\n{"b": "\xff"}\n')
    one = source(path, "jsonl", "one", text_fields=["b"], id_field="id", licence="MIT")
    two = source(write(tmp_path / "b.txt", "天地\n玄龘 黄"), name="two")
    with pytest.warns(UserWarning, match="one: 8 of 10 documents rejected"):
        manifest, is_new = build_corpus(config(wordpiece, tmp_path / "out", one, two))
    assert is_new and manifest.totals.documents_in == 12 and manifest.totals.documents == 3
    assert manifest.sources[0].rejected == {
        Reason.EMPTY: 1,
        Reason.DUPLICATE: 2,
        Reason.BROKEN_JSON: 1,
        Reason.NOT_AN_OBJECT: 1,
        Reason.FIELD_MISSING: 1,
        Reason.FIELD_NOT_A_STRING: 1,
        Reason.INVALID_UTF8: 1,
    }
    assert manifest.sources[0].examples[Reason.DUPLICATE] == ["a.jsonl:4 (id 4)", "a.jsonl:9"]
    assert manifest.sources[1].rejected == {Reason.DUPLICATE: 1}
    assert manifest.sources[1].unk_tokens == 1 == manifest.totals.unk_tokens
    assert manifest.sources[0].licence == "MIT" and manifest.blocks.source == [0, 1]


def test_every_setting_of_a_source_reaches_its_documents(tmp_path, wordpiece):
    records = [("天（）地", "a.cn"), ("玄黄", "https://bad.cn/x"), ("宇宙洪荒", ""), ("only English", "a.cn")]
    lines = [json.dumps({"b": text, "o": origin}, ensure_ascii=False) for text, origin in records]
    path = write(tmp_path / "a.jsonl", "\n".join(lines[:2]).encode() + b"\n" + "\n".join(lines[2:]).encode("gb18030"))
    settings = {"text_fields": ["b"], "origin_field": "o", "encoding": "detect"}
    cleaning = {"blocked_origins": ["bad.cn"], "min_characters": 2}
    manifest, _ = build_corpus(
        config(wordpiece, tmp_path / "out", source(path, "jsonl", **settings, cleaning=cleaning))
    )
    record = load_manifest(tmp_path / "out").sources[0]
    assert record.changed == manifest.totals.changed == {Change.GB18030_DECODED: 1, Change.EMPTY_BRACKETS: 1}
    assert record.rejected == {Reason.BLOCKED_ORIGIN: 1, Reason.TOO_LITTLE_CHINESE: 1}
    assert (record.documents_in, record.documents, record.cleaning.min_characters) == (4, 2, 2)
    # Other rules make another corpus.
    with pytest.raises(ValueError, match="its sources or their settings differ"):
        build_corpus(config(wordpiece, tmp_path / "out", source(path, "jsonl", **settings)))


def test_text_without_tokens_is_rejected(tmp_path, unigram, monkeypatch):
    def encode(self, texts):
        return [np.zeros(int(text != "地"), dtype=self.dtype) for text in texts]

    monkeypatch.setattr("corpus.vocabulary.tokenizer.TextEncoder.encode", encode)
    manifest, _ = build_corpus(config(unigram, tmp_path / "out", source(write(tmp_path / "a", "天\n地\n玄"))))
    assert manifest.totals.rejected == {Reason.NO_TOKENS: 1} and manifest.totals.documents == 2


def test_compressed_inputs_give_the_same_corpus(tmp_path, wordpiece, documents):
    text = "\n".join(documents).encode()
    prints = set()
    for name, data in {"a.txt": text, "b.gz": gzip.compress(text), "c.zst": zstandard.compress(text)}.items():
        path = write(tmp_path / name, data)
        prints.add(build_corpus(config(wordpiece, tmp_path / f"out-{name}", source(path)))[0].fingerprint)
    assert len(prints) == 1


@pytest.mark.filterwarnings("ignore:s. 2 of 3 documents rejected")
def test_member_names_in_gbk_survive_a_whole_build(tmp_path, wordpiece):
    gbk, folder = os.fsdecode("维基".encode("gbk")), tmp_path / "data"
    folder.mkdir()
    for mode, name in (("w", "a.tar"), ("w:gz", "b.tar.gz")):
        with tarfile.open(folder / name, mode) as archive:
            info = tarfile.TarInfo(gbk)
            info.size = len("天地".encode())
            archive.addfile(info, io.BytesIO("天地".encode()))
    write(folder / "c.txt", "天地")
    manifest, _ = build_corpus(config(wordpiece, tmp_path / "out", source(folder)))
    assert manifest.totals.documents == 1 and manifest.totals.rejected == {Reason.DUPLICATE: 2}


def test_batches_and_blocks_do_not_change_documents(tmp_path, wordpiece, documents, monkeypatch):
    path = write(tmp_path / "a", "\n".join(documents))
    whole = tokens_of(build_corpus(config(wordpiece, tmp_path / "whole", source(path)))[0])
    monkeypatch.setattr(read_step, "_BATCH_CHARACTERS", 50)
    monkeypatch.setattr(read_step, "_BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(block, "TARGET_BYTES", 64)
    manifest, _ = build_corpus(config(wordpiece, tmp_path / "small", source(path)))
    assert len(manifest.blocks) > 50 and tokens_of(manifest) == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\u200b\n\u3000", r"no document survived of 2 \(empty 2\), e\.g\. a:1, a:2"),
        (" \n\n", "no document in the inputs: they hold only blank lines"),
    ],
)
@pytest.mark.filterwarnings("ignore:s. 2 of 2 documents rejected")
def test_no_document_left_is_an_error(tmp_path, wordpiece, text, message):
    with pytest.raises(ValueError, match=message):
        build_corpus(config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", text))))
    assert not (tmp_path / "out").exists()


def test_a_bad_input_leaves_no_corpus_and_fixing_it_is_enough(tmp_path, wordpiece):
    data = zstandard.compress("\n".join(f"天{index}" for index in range(10_000)).encode())
    path = write(tmp_path / "a.zst", data[:-10])
    with pytest.raises(ValueError, match=r"a\.zst: cannot be read to its end"):
        build_corpus(config(wordpiece, tmp_path / "out", source(path)))
    assert not (tmp_path / "out").exists()
    write(path, data)
    assert build_corpus(config(wordpiece, tmp_path / "out", source(path)))[0].totals.documents == 10_000


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """The tokenizer of the shared teacher, unpacked."""
    packed = SHARED / "teacher/tokenizer.json.zst"
    if not packed.is_file():
        pytest.skip("shared data is not there: ../shared/data/teacher")
    folder = tmp_path_factory.mktemp("teacher")
    with packed.open("rb") as file:
        (folder / "tokenizer.json").write_bytes(zstandard.ZstdDecompressor().stream_reader(file).read())
    (folder / "tokenizer_config.json").write_bytes((packed.parent / "tokenizer_config.json").read_bytes())
    return folder


@pytest.mark.parametrize("format", FORMATS)
def test_real_files_decode_to_their_normalised_text(tmp_path, teacher, format):
    path = SHARED / "formats" / FORMATS[format]
    if not path.is_file():
        pytest.skip(f"shared data is not there: {path.name}")
    manifest, _ = build_corpus(config(teacher, tmp_path / "out", source(path, format)))
    assert verify(manifest) == []
    (part,) = find_parts([path])
    ((_, lines),) = read_streams(part, len)
    items = list(read_documents(format, lines, part.name))
    assert (
        len(items) == manifest.totals.documents_in == manifest.totals.documents + sum(manifest.totals.rejected.values())
    )
    cleaner = Cleaner(CleaningSettings())
    cleaned = [cleaner.clean(item) for item in items if isinstance(item, Document)]
    texts = list(dict.fromkeys(item.text for item in cleaned if isinstance(item, Document)))
    backend = load_tokenizer(str(teacher)).backend_tokenizer
    pieces = [backend.id_to_token(index) for index in range(manifest.tokenizer.vocab_size)]
    for text, ids in zip(texts, tokens_of(manifest), strict=True):
        # The tokenizer's own NFKC and spaces are part of what its ids mean.
        expected = "▁" + backend.normalizer.normalize_str(text).replace(" ", "▁")
        known = [pieces[index] for index in ids]
        assert_spells(expected, known)


def assert_spells(text: str, pieces: list[str]) -> None:
    """The pieces are the text in order, where an unknown stands for at least one character."""
    at = 0
    unknown = False
    for piece in pieces:
        if piece == "<unk>":
            unknown = True
            continue
        found = text.find(piece, at + 1) if unknown else at
        assert found >= 0 and text.startswith(piece, found), f"{piece!r} is not at {text[at : at + 20]!r}"
        at, unknown = found + len(piece), False
    assert at == len(text) or unknown


def test_a_file_or_member_is_a_document(tmp_path, wordpiece, monkeypatch):
    folder = tmp_path / "in"
    (folder / "体育").mkdir(parents=True)
    write(folder / "体育" / "0.txt", "天地\n\n玄黄\n")
    write(folder / "1.txt", " \n")
    with tarfile.open(folder / "2.tar.gz", "w:gz") as archive:
        archive.add(write(tmp_path / "m", "宇宙\n洪荒"), "m")
    manifest, _ = build_corpus(config(wordpiece, tmp_path / "out", source(folder, "files")))
    assert manifest.totals.documents_in == manifest.totals.documents == 2
    tokenizer = load_tokenizer(str(wordpiece))
    assert tokens_of(manifest) == tokenizer(["宇宙\n洪荒", "天地\n玄黄"], add_special_tokens=False)["input_ids"]
    assert [record.name for record in manifest.sources[0].inputs] == ["in/1.txt", "in/2.tar.gz", "in/体育/0.txt"]

    monkeypatch.setattr(join_step, "_MAX_INPUT_RECORDS", 2)
    asked = config(wordpiece, tmp_path / "few", source(folder, "files"))
    (record,) = build_corpus(asked)[0].sources[0].inputs
    assert record.name == "3 files, in/1.txt to in/体育/0.txt"
    assert record.num_bytes == sum(part.num_bytes for part in find_parts([folder]))
    assert not build_corpus(asked)[1]
    (folder / "1.txt").rename(folder / "0.txt")
    with pytest.raises(ValueError, match="the inputs of s have changed"):
        build_corpus(asked)
