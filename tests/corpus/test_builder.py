import errno
import fcntl
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from corpus import block, builder, packing, unit
from corpus.builder import build_corpus, plan_corpus, run_unit
from corpus.cleaning import Cleaner
from corpus.document import Change, Document, Reason
from corpus.formats import read_documents
from corpus.manifest import load_manifest
from corpus.settings import CleaningSettings, CorpusConfig
from corpus.shard import read_block, verify
from corpus.sources import find_parts, read_streams
from corpus.tokenizer import UnequalIds, load_tokenizer

SHARED = Path(__file__).parents[2] / "../shared/data"
FORMATS = {"wiki2019zh": "wiki_00.zst", "clue": "CLUECorpusSmall_bert_sampled.txt.zst"}


def config(tokenizer, output, *sources, **more) -> CorpusConfig:
    state = {"sources": sources, "tokenizer": str(tokenizer), "output": str(output), **more}
    return CorpusConfig.model_validate_json(json.dumps(state))


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

    monkeypatch.setattr("corpus.tokenizer.TextEncoder.encode", encode)
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
def test_names_in_gbk_take_part_in_a_whole_build(tmp_path, wordpiece):
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
    write(folder / gbk, "天地")
    with pytest.raises(ValueError, match=r"xbb.xf9: a plan can hold only paths that are UTF-8; rename the file"):
        build_corpus(config(wordpiece, tmp_path / "again", source(folder)))


def test_batches_and_blocks_do_not_change_documents(tmp_path, wordpiece, documents, monkeypatch):
    path = write(tmp_path / "a", "\n".join(documents))
    whole = tokens_of(build_corpus(config(wordpiece, tmp_path / "whole", source(path)))[0])
    monkeypatch.setattr(unit, "_BATCH_CHARACTERS", 50)
    monkeypatch.setattr(unit, "_BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(block, "TARGET_BYTES", 64)
    manifest, _ = build_corpus(config(wordpiece, tmp_path / "small", source(path)))
    assert len(manifest.blocks) > 50 and tokens_of(manifest) == whole


def test_an_identical_build_is_found_and_left_alone(tmp_path, wordpiece):
    path = write(tmp_path / "a", "天地\n玄黄")
    (tmp_path / "out").mkdir()  # empty, so free to use
    first, _ = build_corpus(config(wordpiece, tmp_path / "out", source(path)))
    before = (tmp_path / "out" / "manifest.json").stat()
    again, is_new = build_corpus(config(wordpiece, tmp_path / "out", source(path)))
    assert not is_new and again == first and (tmp_path / "out" / "manifest.json").stat() == before


def test_another_build_is_never_overwritten(tmp_path, wordpiece, unigram):
    path, out = write(tmp_path / "a", "天地\n玄黄"), tmp_path / "out"
    build_corpus(config(wordpiece, out, source(path)))
    with pytest.raises(ValueError, match=r"out: holds another corpus \(its tokenizer differs\)"):
        build_corpus(config(unigram, out, source(path)))
    with pytest.raises(ValueError, match=r"holds another corpus \(its sources or their settings differ\)"):
        build_corpus(config(wordpiece, out, source(path, licence="MIT")))
    write(path, "天地\n玄荒")
    with pytest.raises(ValueError, match=r"holds another corpus \(the inputs of s have changed\)"):
        build_corpus(config(wordpiece, out, source(path)))
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not empty and holds no corpus"):
        build_corpus(config(wordpiece, out, source(path)))


def test_a_source_that_is_to_be_kept_out_makes_another_corpus(tmp_path, wordpiece):
    sources = [source(write(tmp_path / name, text), name=name) for name, text in {"a": "天地", "b": "玄黄"}.items()]
    build_corpus(config(wordpiece, tmp_path / "out", *sources))
    with pytest.raises(ValueError, match=r"holds another corpus \(its sources or their settings differ\)"):
        build_corpus(config(wordpiece, tmp_path / "out", sources[0], decontamination=[sources[1]]))


def test_a_crash_leaves_no_corpus_and_the_next_build_goes_on(tmp_path, wordpiece, monkeypatch):
    path, out = write(tmp_path / "a", "天地\n玄黄"), tmp_path / "deep" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(builder, "save_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(config(wordpiece, out, source(path)))
    assert not out.exists()
    (tmp_path / "deep" / "out.partial" / "read-00000.0a.partial").mkdir()  # as a kill leaves it
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(unit, "_read", lambda *_: steps.append("read"))
        patch.setattr(packing, "_encode", lambda *_: steps.append("encode"))
        assert build_corpus(config(wordpiece, out, source(path)))[1]
    assert [item.name for item in out.parent.iterdir()] == ["out"] and not steps


def test_what_a_stopped_build_encoded_goes_to_its_source_whatever_number_that_has_now(tmp_path, wordpiece, monkeypatch):
    a, b, c = (
        write(tmp_path / name, text) for name, text in {"a": "天地", "b": "玄黄\n宇", "c": "洪荒\n日\n月"}.items()
    )
    together = {"name": "ab", "format": "lines", "inputs": [str(a), str(b)]}
    with monkeypatch.context() as patch:
        patch.setattr(builder, "save_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(config(wordpiece, tmp_path / "out", together, source(c, name="c")))
    sources = [source(path, name=path.name) for path in (a, b, c)]
    manifest, _ = build_corpus(config(wordpiece, tmp_path / "out", *sources))
    assert manifest.blocks.source == [0, 1, 2] and manifest.blocks.documents == [1, 2, 3]
    assert [record.documents for record in manifest.sources] == [1, 2, 3]


def test_what_a_kill_after_the_last_step_leaves_is_removed(tmp_path, wordpiece, monkeypatch):
    asked = config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", "天地")))
    with monkeypatch.context() as patch:
        patch.setattr(builder.shutil, "rmtree", lambda path, **_: path.name == "out.partial" and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(asked)
    work = tmp_path / "out.partial"
    with (work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not build_corpus(asked)[1] and work.exists()
    foreign = write(work / "thesis.tex", "x")
    assert not build_corpus(asked)[1] and foreign.exists()
    foreign.unlink()
    assert not build_corpus(asked)[1] and not work.exists()


def test_an_output_inside_an_input_is_refused_at_once(tmp_path, wordpiece):
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "a", "天地")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for output in (tmp_path / "data" / "out", tmp_path / "link" / "deep" / "out"):
        with pytest.raises(ValueError, match=r"out: lies inside the input .*data; choose another output folder"):
            build_corpus(config(wordpiece, output, source(tmp_path / "data")))
    assert list((tmp_path / "data").iterdir()) == [path]
    # A file is one input, whatever lies beside it
    plan_corpus(config(wordpiece, tmp_path / "data" / "out", source(path)))


def test_foreign_files_are_not_removed(tmp_path, wordpiece):
    path = write(tmp_path / "a", "天地")
    (tmp_path / "out.partial").mkdir()
    write(tmp_path / "out.partial" / "thesis.tex", "x")
    with pytest.raises(ValueError, match=r"out\.partial: is needed .* but holds other files: thesis\.tex"):
        build_corpus(config(wordpiece, tmp_path / "out", source(path)))
    assert (tmp_path / "out.partial" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\u200b\n\u3000", r"no document survived of 2 \(empty 2\), e\.g\. a:1, a:2"),
        (" \n\n", "no document in the inputs: they hold only blank lines"),
    ],
)
@pytest.mark.filterwarnings("ignore:s. 2 of 2 documents rejected")
def test_nothing_left_is_an_error(tmp_path, wordpiece, text, message):
    with pytest.raises(ValueError, match=message):
        build_corpus(config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", text))))
    assert not (tmp_path / "out").exists()


def test_a_bad_input_leaves_no_corpus_and_its_cure_is_enough(tmp_path, wordpiece):
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


@pytest.mark.parametrize("step", ["_read", "_encode"])
def test_a_full_disk_is_told_and_a_rerun_goes_on(tmp_path, wordpiece, monkeypatch, step):
    path, out = write(tmp_path / "a", "天地\n玄黄"), tmp_path / "out"

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(unit if step == "_read" else packing, step, fill)
        with pytest.raises(ValueError, match=r"out\.partial: the disk is full \(\d+ MB free now\); the output is not"):
            build_corpus(config(wordpiece, out, source(path)))
    assert not out.exists() and not list((tmp_path / "out.partial").glob("*.partial"))
    assert build_corpus(config(wordpiece, out, source(path)))[0].totals.documents == 2


def test_one_build_at_a_time(tmp_path, wordpiece):
    path, plan = write(tmp_path / "a", "天地"), tmp_path / "out.partial" / "plan.json"
    asked = config(wordpiece, tmp_path / "out", source(path))
    plan_corpus(asked)
    before = plan.read_bytes()
    with plan.with_name("lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for step in (build_corpus, plan_corpus):
            with pytest.raises(ValueError, match=r"out\.partial: another process is building here"):
                step(config(wordpiece, tmp_path / "out", source(path, licence="MIT")))
    assert plan.read_bytes() == before and build_corpus(asked)[1]


def test_a_build_that_gave_up_the_fast_path_goes_on_without_it(tmp_path, wordpiece):
    path = write(tmp_path / "a", "天地")
    asked = config(wordpiece, tmp_path / "out", source(path))

    def disagree(*_):
        raise UnequalIds("other ids")

    assert plan_corpus(asked)[0].fast_tokenizing
    with pytest.warns(UserWarning, match="other ids"), pytest.raises(ValueError, match="run --encode-unit again"):
        run_unit(asked, disagree, 0)
    assert not plan_corpus(asked)[0].fast_tokenizing
    assert plan_corpus(config(wordpiece, tmp_path / "out", source(path, licence="MIT")))[0].fast_tokenizing
