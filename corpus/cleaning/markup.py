"""Rules that remove markup and its leftovers from normalised text. Each is a function from text to text."""

import html
import re
from functools import cache
from html.entities import html5
from typing import Any

_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_FLAG = re.compile(r"([A-Za-z+-])\|")
_CONVERSION = re.compile(r"(?:^|;)\s*(?:[^;:]*=>\s*)?(zh(?:-[a-z]+)?)\s*:\s*([^;]*)")
# Flags of text that is not shown on the page: a rule for other places, the page's title, a removed rule.
_HIDDEN_FLAGS = frozenset("HT-")
_PREFERRED = ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh")


def choose_simplified(text: str) -> str:
    """Replace MediaWiki's `-{zh-hans:...;zh-hant:...}-` by the variant shown to readers of simplified Chinese."""
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
# Attributes are matched by name and value: `a<b 且 c>d` is no tag.
_ATTRIBUTES = r"(?:\s+[A-Za-z][\w:-]*(?:\s*=[^<>\n]{0,2000})?)?\s*/?>"
_UNSEEN = tuple(
    (re.compile(start, re.I), re.compile(end, re.I))
    for start, end in (
        ("<!--", "-->"),
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
    )
)
# A bare tag between two spaces is one that the text is about.
_START = r"<(?!(?<= <)/?[A-Za-z0-9]+> )/?"
_BLOCK = re.compile(rf"{_START}(?:{_BLOCK_TAGS}){_ATTRIBUTES}", re.I)
_INLINE = re.compile(rf"{_START}(?:{_INLINE_TAGS}){_ATTRIBUTES}", re.I)
# Styles of subtitles (ASS), `{\\fn黑体\\fs16}`, by the names that LaTeX has not: `{\\bf 粗}` stays.
_SUBTITLE_STYLE = re.compile(
    r"\{\\(?:fn[\u4e00-\u9fff]|fn[^{}\\\n]{1,40}\\|fs\d|an?\d|bord\d|shad\d|blur\d|be\d|[1-4]?c&?H|pos\(|move\(|fade?\(|[biu][01](?=[\\}]))[^{}\n]{0,300}\}"
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def strip_html(text: str) -> str:
    """Remove tags, comments, scripts and styles; turn block tags into line breaks and entities into characters.

    Tags are removed before entities are replaced: `&lt;p&gt;` is text about a tag. Names that are no HTML tags
    (`List<int>`) stay. Styles of subtitles are removed too.
    """
    if "<" in text:
        for start, end in _UNSEEN:
            text = _drop_between(text, start, end)
        text = _INLINE.sub("", _BLOCK.sub("\n", text))
    if "{\\" in text:
        text = _SUBTITLE_STYLE.sub("", text)
    return _ENTITY.sub(_character, text) if "&" in text else text


def _drop_between(text: str, start: re.Pattern[str], end: re.Pattern[str]) -> str:
    """Remove from each start to the next end in one pass; a single pattern would search for an end at every start."""
    pieces, at = [], 0
    while (first := start.search(text, at)) and (last := end.search(text, first.end())):
        pieces.append(text[at : first.start()])
        at = last.end()
    return "".join([*pieces, text[at:]])


def _character(match: re.Match[str]) -> str:
    # html.unescape alone would turn &notes; into the character of &not; and "es;".
    return html.unescape(match[0]) if match[0][1:] in html5 or match[0][1] == "#" else match[0]


# Empty ASCII brackets are a call after a word (`类名称()`), and `(;)` names a character: removed after punctuation.
# Every alternative begins with its bracket (hence the unusual place of the look-behind): five times as fast.
_LABEL = r"[A-Za-z\u4e00-\u9fff]{1,8}[：:]"  # of what was lost behind it, such as a name in another script
_EMPTY = re.compile(
    rf"（[ ，、；：]*(?:{_LABEL}[ ，、；：]*)*）|\((?<=[，。、；”》]\() ?\)|《 ?》|「 ?」|『 ?』|【 ?】|〔 ?〕"
)
# Each level costs a pass over the text. People nest three deep; deeper nesting is damage or malice.
_MAX_NESTED = 20
_LEADING = re.compile(rf"（(?:(?:{_LABEL})?[，、；][ ，、；]*)+(?=[\w“《「])")
_UNFINISHED = ("：）", ":）", "：，）", "：；）")  # found in a tenth of the time of a pattern
_TRAILING = re.compile(rf"(?:[，、；] ?{_LABEL}[ ，、；]*)+）")


def drop_empty_brackets(text: str) -> str:
    """Remove brackets whose contents were lost, such as names in `（）` and `（学名：）` and titles in `《》`.

    Labels without contents are removed beside others: `（拼音：jiān；学名：）` becomes `（拼音：jiān）`.
    """
    for _ in range(_MAX_NESTED):  # a bracket around an empty bracket is empty then
        text, num_dropped = _EMPTY.subn("", text)
        if not num_dropped:
            break
    text = _LEADING.sub("（", text)
    return _TRAILING.sub("）", text) if any(end in text for end in _UNFINISHED) else text


# Possessive quantifiers: an address may contain the beginning of another, so backtracking would take 2^n steps.
_URL_LINE = re.compile(r"^(?:[^\n:：]{0,10}[:：] ?)?[^\w\n]*(?:(?:(?:https?|ftp)://|www\.)[!-~]++[ 、，]*+)++$", re.M)


def drop_url_lines(text: str) -> str:
    """Remove lines that hold only addresses, with or without a short label before them."""
    return _URL_LINE.sub("", text) if "://" in text or "www." in text else text


def simplify(text: str) -> str:
    """Convert traditional to simplified Chinese by OpenCC's `t2s`: characters by phrase, no regional vocabulary."""
    return _converter().convert(text)


@cache
def _converter() -> Any:
    import opencc  # takes 50 ms and 20 MB, so only if needed

    return opencc.OpenCC("t2s")
