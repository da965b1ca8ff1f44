import json
from itertools import pairwise
from pathlib import Path

from corpus.cleaning.explanation import explain_source
from corpus.config import SourceConfig
from corpus.reading.parts import find_parts


def explain(path: Path, **fields) -> str:
    state = {"name": "s", "format": "lines", "inputs": [str(path)], **fields}
    source = SourceConfig.model_validate_json(json.dumps(state))
    seen: list[int] = []
    text = str(explain_source(source, find_parts(source.inputs), seen.append))
    assert sum(seen) == path.stat().st_size
    return text


def test_every_rule_shows_counts_places_and_examples(tmp_path):
    lines = ["数学（）一词。", "他说&hellip;", "plain English text", "　首行", "\u200b", "天地"]
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode() + b"\n\xff\xff")
    lines = explain(tmp_path / "a.txt").splitlines()
    below = dict(pairwise(lines))
    assert lines[0] == "s: 7 documents in, 4 keep every rule"
    assert below["  changed empty_brackets: 1 (14.29%)"] == "      a.txt:1: '数学（）一词。' -> '数学一词。'"
    assert below["  changed html: 1 (14.29%)"] == "      a.txt:2: '他说&hellip;' -> '他说…'"
    assert below["  changed normalized: 1 (14.29%)"] == "      a.txt:4: '\\u3000首行' -> '首行'"
    assert below["  rejected too_little_chinese: 1 (14.29%)"] == "      a.txt:3: plain English text"
    assert below["  rejected empty: 1 (14.29%)"] == "      a.txt:5: "
    assert below["  rejected invalid_utf8: 1 (14.29%)"] == "      a.txt:7: ��"


def test_only_the_place_of_the_change_is_shown(tmp_path):
    text = (
        "".join(f"第{index}章的" for index in range(99)) + "甲（）乙" + "".join(f"第{index}节的" for index in range(99))
    )
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    shown = explain(tmp_path / "a.txt").splitlines()[2]
    assert "甲（）乙" in shown and "甲乙" in shown and len(shown) < 100


def test_rules_on_characters_are_shown(tmp_path):
    lines = ["天地\ue000玄黄", "天地玄黄（学名：）", "中国的首都是北京，".encode() * 9, "にほんごのぶんしょう" * 12]
    data = [line.decode("gbk", "replace") if isinstance(line, bytes) else line for line in lines]
    (tmp_path / "a.txt").write_text("\n".join(data), encoding="utf-8")
    below = dict(pairwise(explain(tmp_path / "a.txt", cleaning={"min_chinese_share": 0.0}).splitlines()))
    assert below["  changed private_use: 1 (25.00%)"] == "      a.txt:1: '天地\\ue000玄黄' -> '天地玄黄'"
    assert below["  changed empty_brackets: 1 (25.00%)"] == "      a.txt:2: '天地玄黄（学名：）' -> '天地玄黄'"
    assert below["  rejected wrongly_decoded: 1 (25.00%)"].startswith("      a.txt:3: 涓")
    assert below["  rejected japanese: 1 (25.00%)"].startswith("      a.txt:4: にほんご")


def test_examples_are_few_and_counts_are_not(tmp_path):
    (tmp_path / "a.txt").write_text("（）天地\n" * 100, encoding="utf-8")
    lines = explain(tmp_path / "a.txt").splitlines()
    assert "  changed empty_brackets: 100 (100.00%)" in lines and len(lines) == 7


def test_gb18030_is_shown_as_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("天地玄黄".encode("gb18030"))
    lines = explain(tmp_path / "a.txt", encoding="detect").splitlines()
    assert lines[1:] == ["  changed gb18030_decoded: 1 (100.00%)", "      a.txt:1: 天地玄黄"]
