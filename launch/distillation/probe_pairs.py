"""Pairs of texts for probes and reports: titles with the texts of their documents, and pairs labelled as similar."""

import json
import random
from pathlib import Path

from tasks.config import TaskConfig
from tasks.examples import Classified
from tasks.readers import read_task

MAX_DOCUMENTS = 1000

Documents = tuple[list[str], list[str]]  # titles and texts
SimilarPairs = tuple[list[str], list[str], list[int]]  # texts, texts, and 1 for similar ones


def read_documents(path: Path, most: int = MAX_DOCUMENTS) -> Documents:
    """Return (titles, texts) of the first documents of a {"title", "text"} file.

    Raise ValueError naming file and line.
    """
    titles, texts, number = [], [], 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                record = json.loads(line)
                titles.append(str(record["title"]))
                texts.append(str(record["text"]))
                if number == most:
                    break
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):
        raise ValueError(f'{path}:{number}: want {{"title": ..., "text": ...}}') from None
    if len(titles) < 2:
        raise ValueError(f"{path}: {len(titles)} documents; a search needs at least 2")
    return titles, texts


def read_similar_pairs(task: TaskConfig, most: int | None = None) -> SimilarPairs:
    """Return the development pairs of a task whose labels are 0 and 1, a random sample of more than `most`.

    Raise ValueError for a task of another kind or with other labels, or naming the file and line of a faulty record.
    """
    if task.kind != "pair":
        raise ValueError(f"task {task.name}: similarity is measured on pairs (pair), got {task.kind}")
    data = read_task(task)
    if sorted(data.labels) != ["0", "1"]:
        raise ValueError(f"task {task.name}: labels must be 0 and 1 (similar), got {', '.join(data.labels)}")
    pairs = [one for one in data.dev if isinstance(one, Classified)]
    if most is not None and len(pairs) > most:
        pairs = [pairs[i] for i in sorted(random.Random(0).sample(range(len(pairs)), most))]
    similar = data.labels.index("1")
    labels = [int(one.label == similar) for one in pairs]
    if len(set(labels)) < 2:
        raise ValueError(f"{task.dev}: all {len(labels):,} pairs have the same label; both must occur")
    return [one.text for one in pairs], [one.text_b or "" for one in pairs], labels
