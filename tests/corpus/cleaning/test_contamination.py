import numpy as np
import pytest

from corpus.cleaning.contamination import MIN_CHARACTERS, TestTexts
from corpus.cleaning.shingles import hash_shingles

random = np.random.default_rng(7)


def text(length: int) -> str:
    return "".join(map(chr, (0x4E00 + random.integers(3000, size=length)).tolist()))


def find(tests, documents):
    return tests.find(*hash_shingles(documents)).tolist()


def test_a_document_that_contains_a_test_text_is_found():
    texts = [text(length) for length in (MIN_CHARACTERS, 40, 400)]
    tests = TestTexts([*texts, texts[0]])
    edited = texts[2][:200] + "改" + texts[2][201:]
    documents = [text(300), *(text(50) + one + text(70) for one in texts), texts[1], edited, texts[2][:200], "短"]
    assert find(tests, documents) == [False, True, True, True, True, True, False, False]


def test_shingles_shared_by_tests_count_for_each():
    common = text(30)
    tests = TestTexts([common + text(3), text(3) + common, text(200)])
    assert find(tests, [common + text(100), text(130)]) == [True, False]


def test_texts_repeated_in_a_document_count_once():
    one = text(40)
    assert find(TestTexts([one]), [one[:20] * 3]) == [False]


def test_short_texts_are_not_looked_for_with_a_warning():
    with pytest.warns(UserWarning, match="1 test texts of under 15 characters are not looked for"):
        tests = TestTexts(["今天天气不错"])
    assert find(tests, ["他说今天天气不错吧", "今天天气不错"]) == [False, False]
