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


def test_flags_lie_over_the_file(tmp_path):
    config = load_config(write(tmp_path, GOOD), {"output": "p"}, {"inputs": ["x", "y"], "licence": "MIT"})
    assert (config.output, config.tokenizer) == ("p", "t")
    source = config.sources[0]
    assert (source.name, source.inputs, source.licence) == ("wiki", ("x", "y"), "MIT")


def test_flags_alone_are_enough():
    assert load_config(None, {"tokenizer": "t", "output": "o"}, SOURCE).sources[0].name == "wiki"


def test_every_problem_is_told_at_once(tmp_path):
    bad = {"sources": [SOURCE | {"format": "csv", "inputs": []}], "tokenizer": 3, "colour": "red"}
    with pytest.raises(ValueError) as caught:
        load_config(write(tmp_path, bad), {}, {})
    message = str(caught.value)
    assert "c.json: the configuration is wrong" in message
    assert (
        "sources.0.format: Input should be 'wiki2019zh', " in message and "'files' or 'jsonl', not \"csv\"" in message
    )
    assert "sources.0.inputs: " in message and "not []" in message
    assert "tokenizer: Input should be a valid string, not 3" in message
    assert "output: Field required" in message
    assert message.endswith("\n  colour: unknown key")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "jsonl"}, "the format jsonl needs text_fields"),
        ({"text_fields": ["a"]}, "id_field and origin_field belong to the format jsonl, not to wiki2019zh"),
        ({"id_field": "a"}, "id_field and origin_field belong to the format jsonl, not to wiki2019zh"),
        ({"origin_field": "a"}, "id_field and origin_field belong to the format jsonl, not to wiki2019zh"),
        (
            {"encoding": "latin-1"},
            "encoding: Input should be 'utf-8', 'gb18030' or 'detect', not \"latin-1\"",
        ),
        ({"cleaning": {"html": 1, "colour": 2}}, "cleaning.html: .*not 1\n.*cleaning.colour: unknown key"),
        (
            {"cleaning": {"min_characters": 9, "max_characters": 8}},
            r"\(8\) is below min_characters \(9\)",
        ),
        ({"cleaning": {"min_chinese_share": 30}}, "min_chinese_share: .*less than or equal to 1, not 30"),
        ({"cleaning": {"blocked_words": ["a", " "]}}, "must not be empty words: every text would fall"),
        ({"name": ""}, "sources.0.name"),
    ],
)
def test_flags_are_checked_as_strictly(source, message):
    with pytest.raises(ValueError, match=f"command line: the configuration is wrong:(.|\n)*{message}"):
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
def test_a_wrong_source_is_not_said_to_be_missing_too(source, message):
    with pytest.raises(ValueError) as caught:
        load_config(None, {"tokenizer": "t", "output": "o"}, SOURCE | source)
    assert str(caught.value) == f"command line: the configuration is wrong:\n  {message}"
    with pytest.raises(ValueError, match="sources: Tuple should have at least 1 item after validation, not 0"):
        load_config(None, {"sources": [], "tokenizer": "t", "output": "o"}, {})


def test_sources_need_names_of_their_own(tmp_path):
    with pytest.raises(ValueError, match="two sources bear one name: wiki"):
        load_config(write(tmp_path, GOOD | {"sources": [SOURCE, SOURCE]}), {}, {})


def test_an_output_elsewhere_than_in_a_folder_is_refused(tmp_path):
    said = (
        "output: s3://bucket/corpus is a URL; build into a local folder and copy it there: "
        "corpus.manifest of a run may be a URL"
    )
    with pytest.raises(ValueError, match=said):
        load_config(write(tmp_path, GOOD), {"output": "s3://bucket/corpus"}, {})


def test_source_flags_need_one_source(tmp_path):
    path = write(tmp_path, GOOD | {"sources": [SOURCE, SOURCE | {"name": "b"}]})
    with pytest.raises(ValueError, match="several sources, so format, licence cannot be set from the command line"):
        load_config(path, {}, {"licence": "MIT", "format": "lines"})


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not a readable JSON file"), ("[]", "must hold one JSON object")]
)
def test_files_that_are_no_object_are_named(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=rf"c\.json: {message}"):
        load_config(tmp_path / "c.json", {}, {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: is not a readable JSON file"):
        load_config(tmp_path / "none.json", {}, {})
