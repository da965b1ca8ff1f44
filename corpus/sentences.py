"""Sentences of Chinese text: joined, they are the text again, character for character.

A sentence ends after 。！？!?；;… with the closing quotes and brackets behind them, and at a newline; never at
an ASCII full stop (3.14, a.cn), never before a comma. A quotation, bracket or title up to 128 characters long
is never cut inside; a quotation or bracket that ends like a sentence ends the one around it too.
"""

import re

_MAX_SPAN_CHARACTERS = 128
_ENDS = "。！？!?；;…"
_QUOTES = ('""', "“”", "‘’", "「」", "『』", "（）", "()")
_TITLES = ("《》", "〈〉", "【】", "〔〕")
_TAIL = r"[”’」』）)】》〉〕]*+ *+(?:\n|(?![，、,：:]))"


def _span(pair: str, end: str = "") -> str:
    opener, closer = map(re.escape, pair)
    return rf"{opener}[^{opener}{closer}\n]{{0,{_MAX_SPAN_CHARACTERS}}}+{end}{closer}"


# A match that is a cut is in the group `cut`; the others only step over a span.
_STOP = re.compile(
    rf"(?P<cut>\n|[{_ENDS}]++{_TAIL}|(?:{'|'.join(_span(pair, f'(?<=[{_ENDS}])') for pair in _QUOTES)}){_TAIL})"
    rf"|{'|'.join(map(_span, (*_QUOTES, *_TITLES)))}"
)


def split_sentences(text: str) -> list[str]:
    """The sentences in order, none empty; `"".join` of them is the text."""
    cuts = [match.end() for match in _STOP.finditer(text) if match.lastgroup]
    starts = [0, *cuts]
    return [text[start:end] for start, end in zip(starts, [*cuts, len(text)], strict=True) if start < end]
