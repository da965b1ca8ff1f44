"""Rows encode their texts token by token, and cut texts cause a warning."""

import json

import pytest
import zstandard

from tasks.config import TaskConfig
from tasks.examples import Classified, Entity, Question, Tagged
from tasks.kinds.entities import characters_of, spread_tags, tags_of
from tasks.kinds.registry import KINDS
from tasks.readers import encode, read_task
from tasks.rows import IGNORED, EncodedExamples
from tests.tasks.conftest import SHARED, build_unigram

UNKNOWN = "\U00020000"
TEXTS = ["水在零度结冰，Hello World！", "20 度的水 不会结冰…", "a", "他说：“Ａ不是B。”"]


def task(kind="sentence", **keys):
    columns = {"text_b": "b"} if kind == "pair" else {}
    return TaskConfig(name="t", kind=kind, train="", dev="", columns=columns, **keys)


def spelled(tokenizer, ids):
    """The characters that tokens stand for, without spaces and special tokens."""
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    tokens = tokenizer.convert_ids_to_tokens([one for one in ids if one not in special])
    return "".join(token.removeprefix("##") if len(token) > 2 else token for token in tokens).replace("▁", "")


def plain(tokenizer, text):
    """The text as the tokenizer sees it, without spaces."""
    return "".join(tokenizer.backend_tokenizer.normalizer.normalize_str(text).split())


def halves(tokenizer, ids):
    """The ids of a pair's two texts."""
    ends = [place for place, one in enumerate(ids) if one == tokenizer.sep_token_id]
    return ids[1 : ends[0]], ids[ends[0] + 1 : ends[-1]]


def test_texts_decode_to_what_was_written(tokenizer):
    examples = [Classified(text, None, index) for index, text in enumerate(TEXTS)]
    encoded = encode(examples, task(), "abcd", tokenizer)
    rows = encoded.rows
    assert encoded.cut == ""
    assert [row.example for row in rows] == [row.labels["labels"] for row in rows] == [0, 1, 2, 3]
    for row, text in zip(rows, TEXTS, strict=True):
        assert spelled(tokenizer, row.input_ids) == plain(tokenizer, text)
        assert len(row.token_type_ids) == len(row.input_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_no_examples_are_no_rows(kind, tokenizer):
    """As where an evaluation holds none out of training."""
    assert encode((), task(kind, row_tokens=384), ("a", "b"), tokenizer) == EncodedExamples([])


def test_pairs_decode_to_both_texts(tokenizer):
    (row,) = encode([Classified(TEXTS[0], TEXTS[1], 1)], task("pair"), "ab", tokenizer).rows
    for ids, text in zip(halves(tokenizer, row.input_ids), TEXTS[:2], strict=True):
        assert spelled(tokenizer, ids) == plain(tokenizer, text)


def test_the_second_text_of_a_pair_has_a_type_of_its_own(wordpiece):
    (row,) = encode([Classified("水", "结冰", 0)], task("pair"), "ab", wordpiece).rows
    assert row.token_type_ids == [0, 0, 0, 1, 1, 1]


def test_texts_that_do_not_fit_are_cut_at_their_end_and_warned_of(tokenizer):
    examples = [Classified("水" * 5 + "冰" * 40, None, 0), Classified("水", None, 0)]
    encoded = encode(examples, task(row_tokens=16), "ab", tokenizer)
    cut, whole = encoded.rows
    assert encoded.cut == "t: 1 of 2 texts are cut at 16 tokens"
    assert len(cut.input_ids) == 16 and spelled(tokenizer, whole.input_ids) == "水"
    assert examples[0].text.startswith(spelled(tokenizer, cut.input_ids))
    encoded = encode([Classified("水冰", "天" * 40, 0)], task("pair", row_tokens=16), "ab", tokenizer)
    (row,) = encoded.rows
    assert encoded.cut == "t: 1 of 1 texts are cut at 16 tokens"
    short, long = (spelled(tokenizer, ids) for ids in halves(tokenizer, row.input_ids))
    assert (
        len(row.input_ids) == 16 and short == "水冰" and long == "天" * len(long) and len(long) >= 8
    )  # the longer gives


def entities_of(row, num_characters, types):
    """What the labels of a row's tokens say of the characters."""
    tags = [tags_of(types)[max(label, 0)] for label in row.labels["labels"]]
    found = []
    for place, tag in enumerate(spread_tags(tags, row, num_characters)):
        if tag[0] == "B":
            found.append(Entity(place, place + 1, tag[2:]))
        elif tag[0] == "I":
            found[-1] = Entity(found[-1].start, place + 1, tag[2:])
    return tuple(found)


def test_entities_stand_in_the_tokens_of_their_characters(tokenizer):
    text = f"Hello 零度，Ａ{UNKNOWN}a B…20"
    example = Tagged(text, (Entity(0, 5, "name"), Entity(6, 8, "place"), Entity(8, 9, "name"), Entity(15, 17, "place")))
    (row,) = encode([example], task("entities"), ("name", "place"), tokenizer).rows
    assert row.input_ids == tokenizer(text)["input_ids"], "what the model was pretrained on"
    labels = row.labels["labels"]
    assert len(row.input_ids) == len(labels) == len(row.token_type_ids) == len(row.offsets)
    assert all((label == IGNORED) == (offset is None) for label, offset in zip(labels, row.offsets, strict=True))
    assert entities_of(row, len(text), ("name", "place")) == example.entities


def test_no_character_is_in_two_tokens_and_no_space_begins_one():
    offsets = [(0, 0), (0, 1), (0, 2), (2, 5), (3, 5), (5, 6), (5, 8), (0, 0)]
    expected = (None, None, (0, 2), (2, 3), (3, 5), None, (6, 8), None)
    assert characters_of(offsets, "ABCDE FG") == expected
    assert characters_of([], "") == ()


def test_a_piece_over_the_edge_of_an_entity_has_the_tag_of_its_first_character():
    """The price of pieces, here 水 and 结冰: the entity is stretched to the piece's end, or lost."""
    for entity, found in ((Entity(1, 2, "name"), (Entity(1, 3, "name"),)), (Entity(2, 3, "name"), ())):
        (row,) = encode([Tagged("水结冰", (entity,))], task("entities"), ("name",), build_unigram()).rows
        assert entities_of(row, 3, ("name",)) == found


def test_spaces_belong_to_the_entity_around_them_alone(tokenizer):
    text, types = "Hello World 水", ("name",)
    for entity in (Entity(0, 11, "name"), Entity(0, 5, "name"), Entity(6, 11, "name")):
        (row,) = encode([Tagged(text, (entity,))], task("entities"), types, tokenizer).rows
        assert entities_of(row, len(text), types) == (entity,)
    tags = ["O" if offset and offset[0] == 0 else "I-name" for offset in row.offsets]
    assert spread_tags(tags, row, len(text))[5:7] == ["O", "I-name"], "no entity goes on here, so the space is outside"


def test_characters_that_normalising_takes_away_change_nothing_else(tokenizer):
    text = "水\u0301\u200b冰"
    (row,) = encode([Tagged(text, (Entity(3, 4, "name"),))], task("entities"), ("name",), tokenizer).rows
    assert entities_of(row, len(text), ("name",)) == (Entity(3, 4, "name"),)


def test_tokens_before_the_end_of_the_row_keep_their_tags(wordpiece):
    example = Tagged("水" * 12 + "冰" * 4, (Entity(12, 16, "name"),))
    encoded = encode([example], task("entities", row_tokens=16), ("name",), wordpiece)
    (row,) = encoded.rows
    assert encoded.cut == "t: 1 of 1 texts are cut at 16 tokens"
    assert len(row.input_ids) == 16 and entities_of(row, 16, ("name",)) == (Entity(12, 14, "name"),)


def check_windows(tokenizer, rows, question, row_tokens):
    """Windows hold the whole text between them; those that hold the answer point at it, the others at the first token.

    True where one does.
    """
    start, end = question.answers[0][0], question.answers[0][0] + len(question.answers[0][1])
    read, pointed = set(), False
    for row in rows:
        assert len(row.input_ids) == len(row.token_type_ids) == len(row.offsets) <= row_tokens
        there = [offset for offset in row.offsets if offset]
        read |= {place for offset in there for place in range(*offset)}
        first, last = row.labels["start_positions"], row.labels["end_positions"]
        if (first, last) == (0, 0):
            assert not there or there[0][0] > start or there[-1][1] < end
        else:
            assert row.offsets[first][0] <= start and row.offsets[last][1] >= end
            assert row.offsets[first][1] > start and row.offsets[last][0] < end
            ids = row.input_ids[first : last + 1]
            assert tokenizer.unk_token_id in ids or plain(tokenizer, question.answers[0][1]) in spelled(tokenizer, ids)
            pointed = True
    unread = "".join(one for place, one in enumerate(question.text) if place not in read)
    assert not plain(tokenizer, unread)
    return pointed


@pytest.mark.parametrize("answer", ["水", "Hello", "结冰…", "零度"])
def test_windows_hold_the_text_and_point_at_the_answer(tokenizer, answer):
    text = "水在一定的时候 结成冰，" * 5 + "  零度Hello World结冰…" + "山高水长，天地玄黄。" * 4
    question = Question("Q", "几度？", text, ((text.index(answer), answer),))
    rows = encode([question, question], task("reading", row_tokens=32, window_stride=12), (), tokenizer).rows
    assert len(rows) > 6 and [row.example for row in rows] == [0] * (len(rows) // 2) + [1] * (len(rows) // 2)
    assert check_windows(tokenizer, rows[: len(rows) // 2], question, 32)
    for row in rows:
        assert spelled(tokenizer, halves(tokenizer, row.input_ids)[0]) == plain(tokenizer, "几度？")


@pytest.mark.parametrize("answer", [(0, "水" * 50), (-1, "冰")])
def test_answers_longer_than_a_window_or_nowhere_in_the_text_point_nowhere(wordpiece, answer):
    question = Question("Q", "几度", "水" * 60, (answer,))
    rows = encode([question], task("reading", row_tokens=32, window_stride=12), (), wordpiece).rows
    assert all(row.labels == {"start_positions": 0, "end_positions": 0} for row in rows)


@pytest.mark.parametrize(("row_tokens", "stride"), [(16, 7), (17, 7), (64, 31)])
def test_questions_leave_room_for_the_text_and_are_warned_of(tokenizer, row_tokens, stride):
    question = Question("Q", "…水" * 40, "水在零度结冰" * 20, ((2, "零度"),))
    most = row_tokens // 4
    encoded = encode([question], task("reading", row_tokens=row_tokens, window_stride=stride), (), tokenizer)
    assert encoded.cut == f"t: 1 of 1 questions are cut at {most} tokens"
    assert check_windows(tokenizer, encoded.rows, question, row_tokens)


def test_real_questions(tokenizer, tmp_path):
    packed = SHARED / "tasks/cmrc2018/train.json.zst"
    if not packed.is_file():
        pytest.skip("shared data is not there: ../shared/data/tasks/cmrc2018")
    with zstandard.open(packed, "rt", encoding="utf-8") as file:
        data = json.load(file)
    (tmp_path / "train").write_text(json.dumps({"data": data["data"][::60]}))
    files = {"train": str(tmp_path / "train"), "dev": str(tmp_path / "train")}
    config = TaskConfig(name="t", kind="reading", **files, row_tokens=256, window_stride=100)
    questions = read_task(config).train
    assert len(questions) > 100
    windows = [[] for _ in questions]
    for row in encode(questions, config, (), tokenizer).rows:
        windows[row.example].append(row)
    pointed = [check_windows(tokenizer, rows, one, 256) for rows, one in zip(windows, questions, strict=True)]
    assert sum(pointed) >= 0.99 * len(pointed)
