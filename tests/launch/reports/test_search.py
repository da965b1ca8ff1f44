"""Titles that are drawn have something to find; what is found is the nearest text, and its owner is marked."""

import torch

from launch.reports.search import NUM_FOUND, NUM_QUERIES, draw_queries, find_texts, list_results, searchable


def test_drawn_titles_are_those_with_a_text_and_the_same_every_time():
    titles = ["短", *(f"一个合适长度的标题{i}" for i in range(20)), "长" * 40]
    texts = ["长" * 100, *("长" * (100 if i % 2 else 3) for i in range(20)), "长" * 100]
    drawn = draw_queries(titles, texts)
    assert len(drawn) == NUM_QUERIES and drawn == draw_queries(titles, texts)
    assert all(8 <= len(titles[place]) <= 30 and len(texts[place]) >= 50 for place in drawn)
    assert draw_queries(["a", "b"], ["", ""]) == [0, 1], "there is nothing better"
    assert searchable(["短", "长" * 50, ""]) == [1] and searchable(["短", ""]) == [0, 1]


def test_the_nearest_texts_are_found_whatever_the_common_part_of_all_vectors():
    directions = torch.eye(6)
    common = torch.full((6,), 50.0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    vectors = (directions + common)[:2], directions + common, 2 * directions[order] - common
    found = find_texts(*vectors, range(6))
    assert [places[0] for places in found] == [3, 1] and all(len(places) == NUM_FOUND for places in found)
    assert all(set(places) == {0, 2, 5} for places in find_texts(*vectors, [5, 0, 2]))


def test_results_are_listed_by_query_and_the_own_text_is_marked():
    listed = list_results(["x", "b"], {"m": [[1, 0], [0, 1]]}, ["a", "b"], [None, 1])
    mine, other = {"title": "b", "is_own": False}, {"title": "a", "is_own": False}
    assert listed == [
        {"query": "x", "found": {"m": [mine, other]}},
        {"query": "b", "found": {"m": [other, mine | {"is_own": True}]}},
    ]
