import json
from pathlib import Path

import pytest

from corpus.config import load_config

SOURCE = {"name": "wiki", "format": "wiki2019zh", "inputs": ["data/wiki_zh"]}
GOOD = {"sources": [SOURCE], "tokenizer": "t", "output": "o"}
CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "corpus").glob("*.json"))


def write(folder: Path, state) -> Path:
    (folder / "c.json").write_text(json.dumps(state))
    return folder / "c.json"


def test_every_shipped_configuration_decodes():
    assert len(CONFIGS) >= 2
    for path in CONFIGS:
        assert load_config(path, {}, {}).about


def test_flags_override_the_file(tmp_path):
    config = load_config(write(tmp_path, GOOD), {"output": "p"}, {"inputs": ["x", "y"], "licence": "MIT"})
    assert (config.output, config.tokenizer) == ("p", "t")
    source = config.sources[0]
    assert (source.name, source.inputs, source.licence) == ("wiki", ("x", "y"), "MIT")


def test_flags_alone_are_enough():
    assert load_config(None, {"tokenizer": "t", "output": "o"}, SOURCE).sources[0].name == "wiki"


def test_every_problem_is_reported_at_once(tmp_path):
    bad = {"sources": [SOURCE | {"format": "xlsx", "inputs": []}], "tokenizer": 3, "colour": "red"}
    with pytest.raises(ValueError) as caught:
        load_config(write(tmp_path, bad), {}, {})
    message = str(caught.value)
    assert "c.json: 5 problem(s)\n" in message
    assert "sources.0.format: unknown format 'xlsx'; there are wiki2019zh, " in message
    assert "sources.0.inputs: " in message and "got []" in message
    assert "tokenizer: Input should be a valid string, got 3" in message
    assert "output: required, and not given" in message
    assert message.endswith("\ncolour: unknown key")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "jsonl"}, "the format jsonl needs text_fields"),
        ({"text_fields": ["a"]}, "id_field and origin_field are for the formats jsonl, csv, tsv, not wiki2019zh"),
        ({"id_field": "a"}, "id_field and origin_field are for the formats jsonl, csv, tsv, not wiki2019zh"),
        ({"origin_field": "a"}, "id_field and origin_field are for the formats jsonl, csv, tsv, not wiki2019zh"),
        (
            {"encoding": "latin-1"},
            "'utf-16', 'utf-16-le' or 'utf-16-be', got \"latin-1\"",
        ),
        ({"cleaning": {"html": 1, "colour": 2}}, "cleaning.html: .*got 1\n.*cleaning.colour: unknown key"),
        (
            {"cleaning": {"min_characters": 9, "max_characters": 8}},
            r"\(8\) is below min_characters \(9\)",
        ),
        ({"cleaning": {"min_chinese_share": 30}}, "min_chinese_share: .*less than or equal to 1, got 30"),
        ({"cleaning": {"blocked_words": ["a", " "]}}, "must not contain empty words: they match every text"),
        ({"name": ""}, "sources.0.name"),
    ],
)
def test_flags_are_checked_as_strictly(source, message):
    with pytest.raises(ValueError, match=rf"command line: \d problem\(s\)(.|\n)*{message}"):
        load_config(None, {"tokenizer": "t", "output": "o"}, SOURCE | source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "jsonl"}, "sources.0: the format jsonl needs text_fields, e.g. title text"),
        ({"encoding": "GBK"}, "sources.0.encoding: give gb18030, which covers GBK"),
        ({"lisence": "MIT"}, "sources.0.lisence: unknown key; did you mean licence?"),
        (
            {"cleaning": {"min_character": 2}},
            "sources.0.cleaning.min_character: unknown key; did you mean min_characters?",
        ),
    ],
)
def test_a_wrong_source_is_not_reported_as_missing_too(source, message):
    with pytest.raises(ValueError) as caught:
        load_config(None, {"tokenizer": "t", "output": "o"}, SOURCE | source)
    assert str(caught.value) == f"command line: 1 problem(s)\n{message}"
    with pytest.raises(ValueError, match="sources: Tuple should have at least 1 item after validation, not 0"):
        load_config(None, {"sources": [], "tokenizer": "t", "output": "o"}, {})


def test_overrides_are_applied_last(tmp_path):
    path = write(tmp_path, GOOD | {"sources": [SOURCE, SOURCE | {"name": "b"}]})
    overrides = ["sources.1.cleaning.min_characters=50", "near_duplicates={}", "output=q"]
    config = load_config(path, {"output": "p"}, overrides=overrides)
    assert [source.cleaning.min_characters for source in config.sources] == [1, 50]
    assert config.near_duplicates and config.output == "q"
    with pytest.raises(ValueError, match=r"^command line: 1 problem\(s\)\nsources\.0\.licens: unknown key; did you"):
        load_config(None, {"tokenizer": "t", "output": "o"}, SOURCE, ["sources.0.licens=MIT"])
    with pytest.raises(ValueError, match=r"^--set sources\.2\.name=c: 2 is not an index of a list of 2$"):
        load_config(path, overrides=["sources.2.name=c"])


def test_sources_need_different_names(tmp_path):
    with pytest.raises(ValueError, match="two sources have the same name: wiki"):
        load_config(write(tmp_path, GOOD | {"sources": [SOURCE, SOURCE]}), {}, {})


def test_an_output_at_a_url_is_refused(tmp_path):
    message = (
        "output: s3://bucket/corpus is a URL; build into a local folder and copy it there: "
        "corpus.manifest of a run may be a URL"
    )
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, GOOD), {"output": "s3://bucket/corpus"}, {})


def test_source_flags_need_one_source(tmp_path):
    path = write(tmp_path, GOOD | {"sources": [SOURCE, SOURCE | {"name": "b"}]})
    with pytest.raises(ValueError, match="several sources, so format, licence cannot be set by a flag"):
        load_config(path, {}, {"licence": "MIT", "format": "lines"})


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON: "), ("[]", "must hold one JSON object")])
def test_files_that_hold_no_json_object_are_named(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=rf"c\.json: {message}"):
        load_config(tmp_path / "c.json", {}, {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: cannot be read: No such file or directory"):
        load_config(tmp_path / "none.json", {}, {})
