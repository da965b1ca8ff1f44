"""The end of a report on a terminal: verdict, table and the first searches, in lines that fit."""

from launch.reports.screen import render_screen
from tests.launch.reports.test_page import SEARCH, STUDENT, TEACHER

REPORT = {
    "verdicts": [{"headline": "It keeps much.", "details": ["words " * 40]}],
    "models": [TEACHER, STUDENT | {"retrieval": 0.5, "retrieval_error": 0.02}],
    "search": [SEARCH[0] | {"query": query} for query in ("天气", "股市", "考古")],
}


def test_verdict_table_and_the_first_searches_are_shown():
    lines = render_screen(REPORT, num_queries=2).splitlines()
    assert lines[0] == "It keeps much." and lines[1].startswith("  words words") and max(map(len, lines)) <= 100
    table = next(i for i, line in enumerate(lines) if "MB on disk" in line)
    head, teacher, student = lines[table : table + 3]
    assert len(head) == len(teacher) == len(student) <= 84, "columns are aligned, and fit"
    assert teacher.split() == ["teacher", "32.0", "65", "100", "75.0", "±", "2.0", "–"]
    assert student.split() == ["small", "8.0", "73", "450", "50.0", "±", "2.0", "50.0", "±", "2.0"]
    assert [line for line in lines if "search for" in line] == ["search for 天气", "search for 股市"]
    first = lines[lines.index("search for 天气") + 1 :][:3]
    assert first == ["  teacher  1. 明天大风 ✓", f"           2. {'长' * 31}…", "  small    1. 股市"]
