"""The folders of a build: an existing output, the work folder of a stopped build, and the lock."""

import errno
import fcntl

import pytest

from corpus.building import builder, encode_step, join_step, read_step
from corpus.building.builder import build_corpus, finish_corpus, match_corpus, plan_corpus, run_unit
from corpus.building.encode_step import encode_unit
from corpus.building.read_step import read_unit
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import verify
from corpus.vocabulary.tokenizer import UnequalIds
from tests.corpus.building.test_builder import config, source, write

BUSY = r"out\.partial: another process is building here"


def read_first(asked) -> None:
    run_unit(asked, read_unit, 0)


def ready_to_finish(tmp_path, wordpiece):
    """The configuration of a build of one unit, all steps of which are done but the last."""
    asked = config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", "天地\n玄黄")))
    plan_corpus(asked)
    read_first(asked)
    match_corpus(asked)
    run_unit(asked, encode_unit, 0)
    return asked


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
    with pytest.raises(ValueError, match="is not empty and contains no corpus"):
        build_corpus(config(wordpiece, out, source(path)))


def test_another_test_set_makes_another_corpus(tmp_path, wordpiece):
    sources = [source(write(tmp_path / name, text), name=name) for name, text in {"a": "天地", "b": "玄黄"}.items()]
    build_corpus(config(wordpiece, tmp_path / "out", *sources))
    with pytest.raises(ValueError, match=r"holds another corpus \(its sources or their settings differ\)"):
        build_corpus(config(wordpiece, tmp_path / "out", sources[0], decontamination=[sources[1]]))


def test_a_crash_leaves_no_corpus_and_the_next_build_continues(tmp_path, wordpiece, monkeypatch):
    path, out = write(tmp_path / "a", "天地\n玄黄"), tmp_path / "deep" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(builder, "save_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(config(wordpiece, out, source(path)))
    assert not out.exists()
    (tmp_path / "deep" / "out.partial" / "read-00000.0a.partial").mkdir()  # as a kill leaves it
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(read_step, "_read", lambda *_: steps.append("read"))
        patch.setattr(encode_step, "_encode", lambda *_: steps.append("encode"))
        assert build_corpus(config(wordpiece, out, source(path)))[1]
    assert [item.name for item in out.parent.iterdir()] == ["out"] and not steps


def test_encoded_units_are_reused_after_sources_are_reordered(tmp_path, wordpiece, monkeypatch):
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


def test_leftovers_of_a_kill_after_the_last_step_are_removed(tmp_path, wordpiece, monkeypatch):
    asked = config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", "天地")))
    with monkeypatch.context() as patch:
        patch.setattr(builder, "clear", lambda _: 1 / 0)
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
        with pytest.raises(ValueError, match=r"out: is inside the input .*data; choose another output folder"):
            build_corpus(config(wordpiece, output, source(tmp_path / "data")))
    assert list((tmp_path / "data").iterdir()) == [path]
    # A file is one input, whatever lies beside it
    plan_corpus(config(wordpiece, tmp_path / "data" / "out", source(path)))


def test_foreign_files_are_not_removed(tmp_path, wordpiece):
    path = write(tmp_path / "a", "天地")
    (tmp_path / "out.partial").mkdir()
    write(tmp_path / "out.partial" / "thesis.tex", "x")
    with pytest.raises(ValueError, match=r"out\.partial: is needed .* but contains other files: thesis\.tex"):
        build_corpus(config(wordpiece, tmp_path / "out", source(path)))
    assert (tmp_path / "out.partial" / "thesis.tex").exists()


@pytest.mark.parametrize("step", ["_read", "_encode"])
def test_a_full_disk_is_reported_and_a_rerun_continues(tmp_path, wordpiece, monkeypatch, step):
    path, out = write(tmp_path / "a", "天地\n玄黄"), tmp_path / "out"

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(read_step if step == "_read" else encode_step, step, fill)
        with pytest.raises(ValueError, match=r"out\.partial: the disk is full \(\d+ MB free now\); finished units"):
            build_corpus(config(wordpiece, out, source(path)))
    assert not out.exists() and not list((tmp_path / "out.partial").glob("*.partial"))
    assert build_corpus(config(wordpiece, out, source(path)))[0].totals.documents == 2


def test_one_build_at_a_time(tmp_path, wordpiece):
    path, plan = write(tmp_path / "a", "天地"), tmp_path / "out.partial" / "plan.jsonl"
    asked = config(wordpiece, tmp_path / "out", source(path))
    plan_corpus(asked)
    before = plan.read_bytes()
    with plan.with_name("lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for step in (build_corpus, plan_corpus):
            with pytest.raises(ValueError, match=BUSY):
                step(config(wordpiece, tmp_path / "out", source(path, licence="MIT")))
        for step in (match_corpus, finish_corpus, read_first):
            with pytest.raises(ValueError, match=BUSY):
                step(asked)
    assert plan.read_bytes() == before and build_corpus(asked)[1]


def test_units_may_run_together_but_not_during_a_build(tmp_path, wordpiece):
    asked = config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", "天地")))
    plan_corpus(asked)

    def read_while_others_begin(plan, work, index, on_bytes):
        unfinished = work / "read-00000.0a.partial"  # as another unit step has it
        unfinished.mkdir()
        read_first(asked)
        for step in (build_corpus, plan_corpus, match_corpus, finish_corpus):
            with pytest.raises(ValueError, match=BUSY):
                step(asked)
        unfinished.rmdir()

    assert run_unit(asked, read_while_others_begin, 0) == 1
    assert build_corpus(asked)[1]


def test_a_second_finisher_is_refused_or_given_the_corpus(tmp_path, wordpiece, monkeypatch):
    asked = ready_to_finish(tmp_path, wordpiece)
    build_manifest = builder.build_manifest

    def build_while_another_finishes(*arguments):
        with pytest.raises(ValueError, match=BUSY):
            finish_corpus(asked)
        return build_manifest(*arguments)

    monkeypatch.setattr(builder, "build_manifest", build_while_another_finishes)
    with monkeypatch.context() as patch:
        patch.setattr(builder, "clear", lambda _: 1 / 0)  # killed when the corpus was in its place
        with pytest.raises(ZeroDivisionError):
            finish_corpus(asked)
    manifest = finish_corpus(asked)
    assert verify(manifest) == [] and not (tmp_path / "out.partial").exists()
    assert finish_corpus(asked) == manifest and not (tmp_path / "out.partial").exists()


def test_an_incomplete_corpus_is_not_published_and_no_work_is_lost(tmp_path, wordpiece, monkeypatch):
    asked = ready_to_finish(tmp_path, wordpiece)
    with monkeypatch.context() as patch:
        patch.setattr(join_step, "_link", lambda _, target: target.touch())
        with pytest.raises(ValueError, match=r"shard-00000\.bin: the shard has 0 bytes, but the manifest says"):
            finish_corpus(asked)
    assert not (tmp_path / "out").exists() and verify(finish_corpus(asked)) == []


def test_finishing_finds_a_corpus_finished_before_the_lock_was_taken(tmp_path, wordpiece, monkeypatch):
    asked = ready_to_finish(tmp_path, wordpiece)
    with monkeypatch.context() as patch:
        patch.setattr(builder, "clear", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finish_corpus(asked)
    looked = iter([False])
    monkeypatch.setattr(builder, "_is_used", lambda _: next(looked, True))
    assert finish_corpus(asked) == load_manifest(tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("step", [build_corpus, plan_corpus])
def test_a_corpus_finished_by_another_process_is_found(tmp_path, wordpiece, monkeypatch, step):
    asked = config(wordpiece, tmp_path / "out", source(write(tmp_path / "a", "天地")))
    plan = builder._plan

    def plan_while_another_builds(config):
        planned = plan(config)
        monkeypatch.setattr(builder, "_plan", plan)
        assert build_corpus(config)[1]
        return planned

    monkeypatch.setattr(builder, "_plan", plan_while_another_builds)
    found = step(asked)
    assert found == ((load_manifest(tmp_path / "out"), False) if step is build_corpus else plan(asked))
    assert not (tmp_path / "out.partial").exists()


def test_a_build_that_gave_up_the_fast_path_continues_without_it(tmp_path, wordpiece):
    path = write(tmp_path / "a", "天地")
    asked = config(wordpiece, tmp_path / "out", source(path))

    def disagree(*_):
        raise UnequalIds("other ids")

    assert plan_corpus(asked)[0].fast_tokenizing
    with pytest.warns(UserWarning, match="other ids"), pytest.raises(ValueError, match="run --encode-unit again"):
        run_unit(asked, disagree, 0)
    assert not plan_corpus(asked)[0].fast_tokenizing
    assert plan_corpus(config(wordpiece, tmp_path / "out", source(path, licence="MIT")))[0].fast_tokenizing
