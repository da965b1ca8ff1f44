"""Rules that take markup and leftovers of it out of normalised text. Each is text in, text out."""

import html
import re
from functools import cache
from html.entities import html5
from typing import Any

_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_FLAG = re.compile(r"([A-Za-z+-])\|")
_CONVERSION = re.compile(r"(?:^|;)\s*(?:[^;:]*=>\s*)?(zh(?:-[a-z]+)?)\s*:\s*([^;]*)")
# Flags whose text the reader of a page never sees: a rule for elsewhere, the page's title, a removed rule.
_HIDDEN_FLAGS = frozenset("HT-")
_PREFERRED = ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh")


def choose_simplified(text: str) -> str:
    """MediaWiki's `-{zh-hans:...;zh-hant:...}-` as a reader of simplified Chinese sees it."""
    return _VARIANT.sub(_variant, text) if "-{" in text else text


def _variant(match: re.Match[str]) -> str:
    content = match[1]
    if flag := _FLAG.match(content):
        if flag[1] in _HIDDEN_FLAGS:
            return ""
        content = content[flag.end() :]
    variants = dict(_CONVERSION.findall(content))
    chosen = [variants[code] for code in (*_PREFERRED, *variants) if code in variants]
    return (chosen[0] if chosen else content).strip()


_BLOCK_TAGS = "br|p|div|li|ul|ol|dl|dt|dd|tr|table|tbody|thead|h[1-6]|hr|blockquote|pre|section|article"
_INLINE_TAGS = "a|b|i|u|s|em|strong|font|span|img|small|big|center|sub|sup|td|th|code|ref|nowiki|label|iframe"
# Attributes are spelled out: `a<b 且 c>d` is no tag.
_ATTRIBUTES = r"(?:\s+[A-Za-z][\w:-]*(?:\s*=[^<>\n]{0,2000})?)?\s*/?>"
_UNSEEN = tuple(
    (re.compile(start, re.I), re.compile(end, re.I))
    for start, end in (
        ("<!--", "-->"),
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
    )
)
# A bare tag between two spaces is one that the text talks about.
_START = r"<(?!(?<= <)/?[A-Za-z0-9]+> )/?"
_BLOCK = re.compile(rf"{_START}(?:{_BLOCK_TAGS}){_ATTRIBUTES}", re.I)
_INLINE = re.compile(rf"{_START}(?:{_INLINE_TAGS}){_ATTRIBUTES}", re.I)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def strip_html(text: str) -> str:
    """Without tags, comments and scripts; block tags are line breaks; entities are their characters.

    Tags go first: `&lt;p&gt;` is a text about a tag. Names that HTML does not have (`List<int>`) stay.
    """
    if "<" in text:
        for start, end in _UNSEEN:
            text = _drop_between(text, start, end)
        text = _INLINE.sub("", _BLOCK.sub("\n", text))
    return _ENTITY.sub(_character, text) if "&" in text else text


def _drop_between(text: str, start: re.Pattern[str], end: re.Pattern[str]) -> str:
    """One pass, unlike a pattern of both, which would look for the end again from every start."""
    pieces, at = [], 0
    while (first := start.search(text, at)) and (last := end.search(text, first.end())):
        pieces.append(text[at : first.start()])
        at = last.end()
    return "".join([*pieces, text[at:]])


def _character(match: re.Match[str]) -> str:
    # html.unescape would read &notes; as &not; and "es;".
    return html.unescape(match[0]) if match[0][1:] in html5 or match[0][1] == "#" else match[0]


# ASCII brackets are empty in programs too, and `(;)` names a character: theirs go after Chinese text only.
# Every alternative begins with its bracket (hence the odd place to look behind): five times as fast.
_EMPTY = re.compile(r"（[ ，、；：]*）|\((?<=[\u4e00-\u9fff，。、；”》]\() ?\)|《 ?》|「 ?」|『 ?』|【 ?】|〔 ?〕")
# A level costs a pass over the text. People nest three deep; thousands only by damage or malice.
_MAX_NESTED = 20
_LEADING = re.compile(r"（[，、；][ ，、；]*(?=[\w“《「])")


def drop_empty_brackets(text: str) -> str:
    """Without brackets that lost what stood in them, as foreign names in `（）` and titles in `《》`."""
    for _ in range(_MAX_NESTED):  # a bracket around an empty bracket is empty then
        text, num_dropped = _EMPTY.subn("", text)
        if not num_dropped:
            break
    return _LEADING.sub("（", text)


# Possessive: an address may hold what begins one, so a line of many could be cut into addresses in 2^n ways.
_URL_LINE = re.compile(r"^(?:[^\n:：]{0,10}[:：] ?)?[^\w\n]*(?:(?:(?:https?|ftp)://|www\.)[!-~]++[ 、，]*+)++$", re.M)


def drop_url_lines(text: str) -> str:
    """Without lines that are addresses and nothing else, a short label before them included."""
    return _URL_LINE.sub("", text) if "://" in text or "www." in text else text


def simplify(text: str) -> str:
    """Traditional Chinese to simplified, by OpenCC's `t2s`: characters by phrase, no regional words."""
    return _converter().convert(text)


@cache
def _converter() -> Any:
    import opencc  # 50 ms and 20 MB that only those who ask for it pay

    return opencc.OpenCC("t2s")
