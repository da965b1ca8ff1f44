"""What to build a corpus from: one JSON file, or flags over it, checked whole before anything runs."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from corpus.reading.charset import Encoding
from corpus.reading.formats import Format


class Record(BaseModel):
    """Frozen, no unknown key, no conversion between types, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CleaningSettings(Record):
    """The rules for the texts of a source. Shares lie in 0 to 1; a limit that every text meets is off.

    Repeated 13-grams at most 0.5 in texts of 200 characters and more, as in ChineseWebText (arXiv 2311.01149).
    Its other limits are for web pages (200 characters, 10 a line, Chinese 0.3) and would drop titles, answers
    and verse; Chinese 0.2 keeps titles of foreign products, too. Repeated lines at most 0.5, where Gopher
    (arXiv 2112.11446) has 0.2 for English web pages: it costs documentation its tables.
    """

    language_variants: bool = True  # Wikipedia's -{zh-hans:...}-: the simplified form is kept
    html: bool = True  # tags are removed
    empty_brackets: bool = True  # brackets that hold nothing are removed
    url_lines: bool = True  # lines that are an address alone are removed
    simplified: bool = False  # traditional characters become simplified
    min_characters: int = Field(default=1, ge=1)
    max_characters: int | None = Field(default=None, ge=1)
    min_mean_line_characters: float = Field(default=0.0, ge=0)
    min_chinese_share: float = Field(default=0.2, ge=0, le=1)
    max_repeated_line_share: float = Field(default=0.5, ge=0, le=1)
    max_repeated_ngram_share: float = Field(default=0.5, ge=0, le=1)
    blocked_origins: tuple[str, ...] = ()  # documents of these sites or publishers are dropped
    blocked_words: tuple[str, ...] = ()  # documents that hold one are dropped

    @model_validator(mode="after")
    def _check_lengths(self) -> "CleaningSettings":
        if self.max_characters and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters ({self.max_characters}) is below min_characters ({self.min_characters})")
        if not all(word.strip() for word in (*self.blocked_words, *self.blocked_origins)):
            raise ValueError("blocked_words and blocked_origins must not be empty words: every text would fall")
        return self


class SourceSettings(Record):
    """What a source is. Fields are named for jsonl only; the other formats have their own."""

    name: str = Field(min_length=1)
    licence: str = "not stated"  # kept in the manifest, and on the cards of students
    format: Format
    text_fields: tuple[str, ...] = ()  # jsonl: they make the document, in order; OUTER.INNER of each of a list
    id_field: str | None = None  # jsonl: names the document in messages
    origin_field: str | None = None  # jsonl: its site or publisher, for blocked_origins
    encoding: Encoding = "utf-8"
    cleaning: CleaningSettings = CleaningSettings()

    @field_validator("encoding", mode="before")
    @classmethod
    def _name_what_covers(cls, encoding: Any) -> Any:
        if str(encoding).lower() in ("gbk", "gb2312", "cp936"):
            raise ValueError(f"give gb18030, which covers {encoding}")
        return encoding

    @model_validator(mode="after")
    def _check_fields(self) -> "SourceSettings":
        if self.format == "jsonl" and not self.text_fields:
            raise ValueError("the format jsonl needs text_fields, e.g. title text")
        if self.format != "jsonl" and (self.text_fields or self.id_field or self.origin_field):
            raise ValueError(f"text_fields, id_field and origin_field belong to the format jsonl, not to {self.format}")
        return self


class SourceConfig(SourceSettings):
    """A source and its files, folders or zips. Paths are relative to the working folder."""

    inputs: tuple[str, ...] = Field(min_length=1)


class NearDuplicates(Record):
    """Documents whose character 5-grams are shared with an earlier one are dropped: those in both over those in
    either, at least `jaccard`. Edits of 2 % of the characters leave 0.82."""

    jaccard: float = Field(default=0.7, ge=0.5, le=1.0)


class BuildConfig(Record):
    """A corpus: its sources, the tokenizer (folder or hub id) and the folder to write.

    `decontamination` are test sets, each document one text; documents of the sources that hold one are dropped.
    `whole_words` keeps a bit a token, whether it continues a word, so that whole words can be masked.
    """

    about: str = ""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    tokenizer: str = Field(min_length=1)
    output: str = Field(min_length=1)
    near_duplicates: NearDuplicates | None = None
    decontamination: tuple[SourceConfig, ...] = ()
    whole_words: bool = False

    @field_validator("output")
    @classmethod
    def _check_local(cls, output: str) -> str:
        if "://" in output:
            raise ValueError(
                f"{output} is a URL; build into a local folder and copy it there: corpus.manifest of a run may be a URL"
            )
        return output

    @model_validator(mode="after")
    def _check_names(self) -> "BuildConfig":
        names = [source.name for source in self.sources]
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources bear one name: {', '.join(doubles)}")
        return self


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Every problem of a configuration, a line each: path, what is wanted, what came."""
    lines, problems = [], error.errors()
    for problem in problems:
        place, kind = problem["loc"], problem["type"]
        # pydantic counts only the items that are right, so one wrong item is none
        if kind == "too_short" and any(other["loc"][: len(place)] == place != other["loc"] for other in problems):
            continue
        path = ".".join(map(str, place)) or "(whole)"
        if kind == "extra_forbidden":
            lines.append(f"  {path}: {unknown_key(str(place[-1]), model)}")
            continue
        came = "" if kind in ("missing", "value_error") else f", not {json.dumps(problem['input'])}"
        lines.append(f"  {path}: {problem['msg'].removeprefix('Value error, ')}{came}")
    return "\n".join(lines)


def unknown_key(key: str, model: type[BaseModel]) -> str:
    """What to say of a key that the model does not have there: which of its keys, at any depth, is the nearest."""
    nearest = difflib.get_close_matches(key, _known_keys(model), 1, 0.5)
    return f"unknown key; did you mean {nearest[0]}?" if nearest else "unknown key"


def _known_keys(model: type[BaseModel]) -> list[str]:
    keys = dict.fromkeys(model.model_fields)
    for field in model.model_fields.values():
        for below in _models(field.annotation):
            keys.update(dict.fromkeys(_known_keys(below)))
    return list(keys)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def load_config(path: str | Path | None, overrides: dict[str, Any], source_overrides: dict[str, Any]) -> BuildConfig:
    """The configuration in a file with flags laid over it; either may be missing.

    Raises ValueError naming every problem at once, and where source flags meet a file of several sources.
    """
    state = _read_json_object(Path(path)) if path is not None else {}
    state |= overrides
    if source_overrides:
        sources = state.get("sources") or [{}]
        if not (isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], dict)):
            flags = ", ".join(sorted(source_overrides))
            raise ValueError(f"{path}: holds several sources, so {flags} cannot be set from the command line")
        state["sources"] = [sources[0] | source_overrides]
    try:
        return BuildConfig.model_validate_json(json.dumps(state))
    except ValidationError as error:
        raise ValueError(
            f"{path or 'command line'}: the configuration is wrong:\n{describe(error, BuildConfig)}"
        ) from error


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not a readable JSON file: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: must hold one JSON object")
    return state
