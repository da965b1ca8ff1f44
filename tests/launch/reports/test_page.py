"""The page: every number in its row, nothing from elsewhere, nothing that a name could inject."""

import base64
import re
from html.parser import HTMLParser

import pytest

from launch.reports.page import COLUMNS, flatten, ratio, render_chart, render_facts, render_page, render_results

TEACHER = {
    "name": "teacher",
    "num_layers": 12,
    "hidden_size": 384,
    "num_parameters": 32_000_000,
    "num_non_embedding": 21_000_000,
    "megabytes": 128.0,
    "file_megabytes": 65.0,
    "milliseconds_per_text": 20.0,
    "texts_per_second": 100.0,
    "accuracy": 0.75,
    "standard_error": 0.02,
}
STUDENT = TEACHER | {
    "name": "small",
    "num_layers": 4,
    "num_parameters": 8_000_000,
    "megabytes": 32.0,
    "file_megabytes": 73.0,
    "milliseconds_per_text": 5.0,
    "texts_per_second": 450.0,
    "accuracy": 0.5,
}


SEARCH = [
    {
        "query": "天气",
        "found": {
            "teacher": [{"title": "明天大风", "is_own": True}, {"title": "长" * 99, "is_own": False}],
            "small": [{"title": "股市", "is_own": False}],
        },
    }
]


class Outline(HTMLParser):
    """Cells of every table row, and tags that were never closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f"{data} "


def page(**changes: object) -> str:
    report = {
        "title": "Distilled: small",
        "summary": "What was done.",
        "method": ["How."],
        "facts": {"cores": 2},
        "verdicts": [{"headline": "It keeps much.", "details": ["So much."]}],
        "search": SEARCH,
    }
    report |= {"models": [TEACHER, STUDENT], "last_step": {"step": 7.0}, "config": {"about": "a demo"}}
    return render_page(report | changes, [("Loss", "<svg/>")])


def test_rows_hold_every_number_with_its_ratio_to_the_first():
    head, teacher, student = Outline(render_results([TEACHER, STUDENT])).rows
    assert len(head) == len(teacher) == len(student) == 8
    assert [cell.split() for cell in teacher[1:]] == [
        ["32.0"],
        ["21.0"],
        ["128"],
        ["65"],
        ["20.0"],
        ["100"],
        ["75.0", "±", "2.0"],
    ]
    assert student[0].split() == ["small", "4", "layers", "×", "384"]
    assert [" ".join(cell.split()) for cell in student[1:]] == [
        "8.0 4.0× fewer",
        "21.0",
        "32 4.0× smaller",
        "73 1.1× larger",
        "5.0 4.0× faster",
        "450 4.5× faster",
        "50.0 ± 2.0",
    ]


def test_held_out_loss_stands_only_where_some_model_has_one():
    assert "Held-out" not in render_results([TEACHER, STUDENT])
    head, teacher, student = Outline(render_results([TEACHER, STUDENT | {"heldout_relation_loss": 1.2345}])).rows
    assert "Held-out relation loss" in head[-1]
    assert (teacher[-1].strip(), student[-1].strip()) == ("–", "1.234")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_parameters", 64_000_000, "2.0× more"),
        ("megabytes", 126.0, ""),
        ("milliseconds_per_text", 30.0, "1.5× slower"),
        ("texts_per_second", 40.0, "2.5× slower"),
        ("accuracy", 0.1, ""),
    ],
)
def test_ratios_say_which_way(key, value, words):
    (column,) = (column for column in COLUMNS if column.key == key)
    assert ratio(column, {key: value}, TEACHER) == words


def test_the_page_is_whole_and_needs_nothing_else():
    text = page()
    outline = Outline(text)
    assert not outline.open
    assert not outline.tags & {"script", "link", "iframe"}
    assert not re.search(r"(?:src|href)=(?!\"data:)|url\(|@import|https?:", text)
    assert 'name="viewport"' in text and "<title>Distilled: small</title>" in text


def test_names_and_facts_cannot_become_markup():
    evil = "<script>alert(1)</script>"
    text = page(
        title=evil,
        summary=evil,
        method=[evil],
        verdicts=[{"headline": evil, "details": [evil]}],
        search=[{"query": evil, "found": {evil: [{"title": evil, "is_own": True}]}}],
        models=[TEACHER | {"name": evil}],
        facts={evil: evil},
        config={evil: {"x": [evil]}},
    )
    assert "script" not in Outline(text).tags and text.count("&lt;script&gt;") >= 12


def test_the_verdict_comes_first_and_the_search_shows_what_each_model_found():
    text = page()
    assert text.index("It keeps much.") < text.index("So much.") < text.index("What was done.")
    teacher, small = text.split('<div class="found">')[1].split("</div></div>")[0].split("</div>")
    assert (
        "<p>teacher</p>" in teacher and "<li class=own>明天大风</li>" in teacher and f"<li>{'长' * 59}…</li>" in teacher
    )
    assert "<p>small</p>" in small and "<li>股市</li>" in small
    assert "✓ marks the text that the title belongs to" in text
    typed = [SEARCH[0] | {"found": {"small": SEARCH[0]["found"]["small"]}}]
    assert "marks the text" not in page(search=typed) and "A search" not in page(search=[])


def test_a_chart_is_embedded_byte_for_byte():
    (data,) = re.findall(r'base64,([^"]*)"', render_chart("损失 & rate", "<svg>率</svg>"))
    assert base64.b64decode(data).decode() == "<svg>率</svg>"
    assert 'alt="损失 &amp; rate"' in render_chart("损失 & rate", "<svg/>")


def test_facts_flatten_to_one_line_a_leaf():
    facts = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}, {"e": "x"}], "f": {}, "g": "文"}
    assert flatten(facts) == [
        ("a.b", "1"),
        ("a.c", "[1, 2]"),
        ("d.0.e", "null"),
        ("d.1.e", "x"),
        ("f", "{}"),
        ("g", "文"),
    ]
    assert render_facts("Run", {}) == ""
