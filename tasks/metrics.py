"""Metrics between 0 and 1: scikit-learn's for classes, seqeval's for entities, CMRC2018's own for reading."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from seqeval.metrics import f1_score as entity_f1_score
from sklearn.metrics import accuracy_score, f1_score

from tasks.examples import Question

CHINESE_PUNCTUATION = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # as in the official script
_NO_BREAK = re.compile(r"[\u4e00-\u9fa5]")
_WORDS = re.compile(r"\w+(?:(?:\.|,(?=\d))\w+)*|[^\w\s]")  # 3.5 and 1,000 are one word


def score_classes(expected: Sequence[int], predicted: Sequence[int], num_classes: int) -> dict[str, float]:
    """Return `accuracy`, `macro_f1` over the classes that occur and, if there are two classes, `f1` of class 1."""
    scores = {"accuracy": accuracy_score(expected, predicted)}
    if num_classes == 2:
        scores["f1"] = f1_score(expected, predicted, zero_division=0)
    scores["macro_f1"] = f1_score(expected, predicted, average="macro", zero_division=0)
    return {name: float(score) for name, score in scores.items()}


def score_entities(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return F1 of whole entities from the tags of every character: averaged over types, as for CLUENER, and overall.

    CLUENER's own script compares the distinct words of each type; here every occurrence counts.
    """
    tags = [list(row) for row in expected], [list(row) for row in predicted]
    if all(tag == "O" for row in [*tags[0], *tags[1]] for tag in row):
        return {"entity_macro_f1": 0.0, "entity_f1": 0.0}  # seqeval's mean over no types is NaN
    averages = {"entity_macro_f1": "macro", "entity_f1": "micro"}
    return {name: float(entity_f1_score(*tags, average=how, zero_division=0)) for name, how in averages.items()}


def score_reading(questions: Sequence[Question], predicted: Mapping[str, str]) -> dict[str, float]:
    """Return F1 over the longest common run of characters and words, and exact match, as cmrc2018_evaluate.py.

    Text without Chinese characters is split into words by a pattern instead of NLTK as in the official script.
    """
    f1 = [max(_overlap_f1(words, predicted[one.id]) for _, words in one.answers) for one in questions]
    exact = [any(_bare(words) == _bare(predicted[one.id]) for _, words in one.answers) for one in questions]
    return {"reading_f1": sum(f1) / len(f1), "exact_match": sum(exact) / len(exact)}


def _overlap_f1(answer: str, predicted: str) -> float:
    a, b = _segments(answer), _segments(predicted)
    common = SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _segments(text: str) -> list[str]:
    parts: list[str] = []
    run = ""
    for character in text.lower().strip():
        if character in CHINESE_PUNCTUATION:
            continue
        if _NO_BREAK.match(character):
            parts += [*_WORDS.findall(run), character]
            run = ""
        else:
            run += character
    return parts + _WORDS.findall(run)


def _bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in CHINESE_PUNCTUATION)
