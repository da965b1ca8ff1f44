"""Entities are read from files of tags in every scheme; errors name the file and line."""

import pytest

from tasks.config import TaskConfig
from tasks.examples import Entity, Tagged
from tasks.readers import read_task

TEXT = "去北京和上海"
SCHEMES = {
    "BIO": ["O", "B-LOC", "I-LOC", "O", "B-LOC", "I-LOC"],
    "IOB1": ["O", "I-LOC", "I-LOC", "O", "I-LOC", "I-LOC"],
    "BMES": ["O", "B-LOC", "E-LOC", "O", "B-LOC", "E-LOC"],
    "BILOU": ["O", "B-LOC", "L-LOC", "O", "B-LOC", "L-LOC"],
    "underscores": ["O", "B_LOC", "I_LOC", "O", "B_LOC", "I_LOC"],
    "types first": ["O", "LOC-B", "LOC-I", "O", "LOC_B", "LOC_E"],
}


def read(tmp_path, text):
    (tmp_path / "t.txt").write_bytes(text.encode())
    path = str(tmp_path / "t.txt")
    return read_task(TaskConfig(name="t", kind="entities", format="tags", train=path, dev=path))


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_read(tmp_path, scheme, separator):
    lines = (f"{char}{separator}{tag}" for char, tag in zip(TEXT, SCHEMES[scheme], strict=True))
    data = read(tmp_path, "\n".join(lines))
    assert data.train == (Tagged(TEXT, (Entity(1, 3, "LOC"), Entity(4, 6, "LOC"))),) and data.labels == ("LOC",)


def test_entities_that_touch_are_two(tmp_path):
    assert read(tmp_path, "甲 S-PER\n乙 S-PER\n丙 B-PER\n丁 B-ORG\n戊 I-PER").train[0].entities == (
        Entity(0, 1, "PER"), Entity(1, 2, "PER"), Entity(2, 3, "PER"), Entity(3, 4, "ORG"), Entity(4, 5, "PER"),
    )  # fmt: skip


def test_blanks_line_ends_and_more_columns(tmp_path):
    lines = (
        "\ufeff-DOCSTART- O",
        "",
        "甲\tn\tB-PER",
        "\tx\tO",
        " \tO",
        "\u3000\tO",
        "O",
        "乙\tn\tO\t",
        " ",
        "",
        "丙 O",
        "",
    )
    assert [one.text for one in read(tmp_path, "\r\n".join(lines)).train] == ["甲    乙", "丙"]
    words = read(tmp_path, "EU B-ORG\nrejects O\ni O\nP O\n德国 B-LOC\ncall O").train[0]
    assert words == Tagged("EU rejects iP德国call", (Entity(0, 2, "ORG"), Entity(13, 15, "LOC")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("甲 B-PER\n乙\n", r"t.txt:2: has one column: '乙'; wanted a character and its tag"),
        ("甲 B-PER\n\n乙 PER\n", r"t.txt:3: unknown tag 'PER'; must be O, or B-TYPE"),
        ("甲\t3\n", r"t.txt:1: unknown tag '3'; must be O, or B-TYPE"),
        ("1 EU NNP B-ORG\n2 call NN O\n", r"t.txt:1: the first column numbers the words; leave it out: cut"),
        ("甲 O\n", r"t.txt: contains no entities"),
        ("\n\n", r"t.txt: contains no entities"),
    ],
)
def test_lines_that_are_no_tags_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)
