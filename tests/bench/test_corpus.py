"""The benchmark's own way without cleaning leaves every text as normalisation gives it, whatever rules there are."""

import pytest

from bench.corpus import BARE
from corpus.cleaning.cleaner import Cleaner
from corpus.cleaning.normalization import normalize
from corpus.config import CleaningSettings
from corpus.document import Document

JUNK = [
    "锟斤拷" * 40,
    "ひらがな" * 40,
    "（学名：）《》<b>天地</b>\ue000",
    "天地玄黄" * 200,
    "http://example.com/\n天地",
    "no Chinese at all",
    "龘" * 200,
    "-{zh-hans:天;zh-hant:地}-",
]


@pytest.mark.parametrize("text", JUNK)
def test_nothing_is_changed_or_dropped(text):
    cleaned = Cleaner(CleaningSettings(**BARE)).clean(Document(text, "a:1"))
    assert isinstance(cleaned, Document) and cleaned.text == normalize(text)


def test_by_default_all_of_it_is():
    cleaner = Cleaner(CleaningSettings())
    for text in JUNK:
        cleaned = cleaner.clean(Document(text, "a:1"))
        assert not isinstance(cleaned, Document) or cleaned.text != normalize(text)
