"""The configuration of a corpus build: a JSON file, or command-line flags over it, validated before anything runs."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from corpus.config_file import override, read_values, validate
from corpus.reading.bad_input import OnBadInput
from corpus.reading.charset import Encoding, suggest_encoding
from corpus.reading.formats import FIELD_FORMATS, Format


class StrictModel(BaseModel):
    """Base of everything read from JSON: frozen, no unknown keys, no conversion between types, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CleaningSettings(StrictModel):
    """The cleaning rules of a source. Shares lie between 0 and 1.

    Repeated 13-grams: at most 0.5, in texts of 200 characters and more, as in ChineseWebText (arXiv 2311.01149).
    Its other limits suit web pages (200 characters, 10 a line, Chinese 0.3) and would drop titles, answers and
    verse; a Chinese share of 0.2 also keeps titles of foreign products. Repeated lines: at most 0.5, where Gopher
    (arXiv 2112.11446) has 0.2 for English web pages, which would drop the tables of technical documentation.
    Kana and function words: in texts of 100 characters and more; of 43,507 good ones 3 and 28 break the limits.
    """

    language_variants: bool = True  # keep the simplified form of Wikipedia's -{zh-hans:...}-
    html: bool = True  # remove tags
    private_use: bool = True  # remove private-use characters
    empty_brackets: bool = True  # remove brackets with nothing in them, or only a label: （学名：）
    url_lines: bool = True  # remove lines that are only an address
    simplified: bool = False  # convert traditional characters to simplified ones
    min_characters: int = Field(default=1, ge=1)  # drop shorter documents
    max_characters: int | None = Field(default=None, ge=1)  # drop longer documents
    min_mean_line_characters: float = Field(default=0.0, ge=0)  # drop documents of shorter lines; 0 is no limit
    min_chinese_share: float = Field(default=0.2, ge=0, le=1)  # Han characters among all but spaces; 0 is no limit
    wrongly_decoded: bool = True  # drop text that was decoded by a wrong codec: 锟斤拷, UTF-8 as GBK, GBK as Big5
    max_kana_share: float = Field(default=0.1, ge=0, le=1)  # kana among all but spaces; 1 is no limit
    min_function_share: float = Field(default=0.02, ge=0, le=1)  # 的, 是, 在, ... among Han characters; 0 is no limit
    max_repeated_line_share: float = Field(default=0.5, ge=0, le=1)  # characters in repeated lines; 1 is no limit
    max_repeated_ngram_share: float = Field(default=0.5, ge=0, le=1)  # repeated 13-grams; 1 is no limit
    blocked_origins: tuple[str, ...] = ()  # drop documents of these sites or publishers
    blocked_words: tuple[str, ...] = ()  # drop documents that contain one of these

    @model_validator(mode="after")
    def _check_lengths(self) -> "CleaningSettings":
        if self.max_characters and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters ({self.max_characters}) is below min_characters ({self.min_characters})")
        if not all(word.strip() for word in (*self.blocked_words, *self.blocked_origins)):
            raise ValueError("blocked_words and blocked_origins must not contain empty words: they match every text")
        return self


class SourceSettings(StrictModel):
    """How a source is read and cleaned. The three fields are for jsonl, csv and tsv; other formats have fixed ones."""

    name: str = Field(min_length=1)  # unique; used in messages, in the manifest and in corpus.weights of a run
    licence: str = "not stated"  # kept in the manifest and on students' model cards
    format: Format  # how the files are read, see corpus/reading/formats.py
    text_fields: tuple[str, ...] = ()  # fields or columns joined to the document, in order; OUTER.INNER if nested
    id_field: str | None = None  # names the document in messages
    origin_field: str | None = None  # its site or publisher, for blocked_origins
    encoding: Encoding = "utf-8"  # of the files; detect: UTF-8 or GB18030, document by document
    on_bad_input: OnBadInput = "stop"  # for damaged files; skip leaves them out, with their names in the manifest
    cleaning: CleaningSettings = CleaningSettings()

    @field_validator("encoding", mode="before")
    @classmethod
    def _suggest_encoding(cls, encoding: Any) -> Any:
        if advice := suggest_encoding(str(encoding)):
            raise ValueError(f"give {advice}")
        return encoding

    @model_validator(mode="after")
    def _check_fields(self) -> "SourceSettings":
        if self.format in FIELD_FORMATS and not self.text_fields:
            raise ValueError(f"the format {self.format} needs text_fields, e.g. title text")
        if self.format not in FIELD_FORMATS and (self.text_fields or self.id_field or self.origin_field):
            formats = ", ".join(FIELD_FORMATS)
            raise ValueError(f"text_fields, id_field and origin_field are for the formats {formats}, not {self.format}")
        return self


class SourceConfig(SourceSettings):
    """A source of documents: its settings and where its files are."""

    inputs: tuple[str, ...] = Field(min_length=1)  # files, folders, patterns (data/*.gz), archives or URLs


class NearDuplicates(StrictModel):
    """Drop documents that resemble an earlier one: the Jaccard index of their character 5-grams (those in both
    documents over those in either) is at least `jaccard`. Editing 2 % of the characters leaves an index of 0.82."""

    jaccard: float = Field(default=0.7, ge=0.5, le=1.0)


class BuildConfig(StrictModel):
    """A corpus to build: its sources, the tokenizer and the output folder."""

    about: str = ""  # a note for readers
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    tokenizer: str = Field(min_length=1)  # folder or hub id of a fast tokenizer
    output: str = Field(min_length=1)  # folder to write
    near_duplicates: NearDuplicates | None = None  # also drop near duplicates; equal texts are always dropped
    decontamination: tuple[SourceConfig, ...] = ()  # test sets; documents that contain one of their texts are dropped
    whole_words: bool = False  # store word boundaries (one bit a token), so that runs can mask whole words

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
            raise ValueError(f"two sources have the same name: {', '.join(doubles)}")
        return self


def load_config(
    path: str | Path | None,
    flags: Mapping[str, Any] | None = None,
    source_flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> BuildConfig:
    """Load the configuration of a build.

    Args:
        path: a JSON file, or None to take everything from the other arguments.
        flags: top-level keys that replace the file's.
        source_flags: keys of the only source that replace the file's.
        overrides: `dotted.key=value` texts, applied last.

    Raises ValueError naming every problem at once, and if source flags are given for a file of several sources.
    """
    values = read_values(Path(path)) if path is not None else {}
    values |= flags or {}
    if source_flags:
        sources = values.get("sources") or [{}]
        if not (isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], dict)):
            names, example = ", ".join(sorted(source_flags)), min(source_flags)
            advice = f"use --set sources.0.{example}=VALUE"
            raise ValueError(f"{path}: has several sources, so {names} cannot be set by a flag; {advice}")
        values["sources"] = [{**sources[0], **source_flags}]
    values = copy.deepcopy(values)  # overrides change it in place
    for text in overrides:
        override(values, text)
    return validate(BuildConfig, values, path or "command line")
