"""Bytes to text: UTF-8, GB18030 (and so GBK and GB2312), or whichever of the two a document is in.

Bytes of one encoding often decode in the other without an error, as wrong text. Where both could be meant,
and where neither is, the document is rejected; it is never guessed. The unit of decision is the document, so
a file may mix both, and cutting a file into units of work changes nothing.
"""

import re
from functools import cache
from typing import Literal

import numpy as np

from corpus.document import Reason

Encoding = Literal["utf-8", "gb18030", "detect"]
# Of the characters beyond ASCII. 7,600 real documents had 0.86 and more, their UTF-8 read as GB18030 0.54 at most.
_MIN_COMMON_SHARE = 0.7
_BEYOND_TWO_BYTES = re.compile("[\u0800-\U0010ffff]")


def decode(data: bytes, encoding: Encoding) -> tuple[str, bool] | Reason:
    """The text and whether it was GB18030, or the reason why it cannot be known."""
    utf8 = _decoded(data, "utf-8")
    if encoding == "utf-8":
        return Reason.INVALID_UTF8 if utf8 is None else (utf8, False)
    if utf8 is not None and data.isascii():
        return utf8, False
    gb18030 = _decoded(data, "gb18030")
    is_chinese = gb18030 is not None and common_share(gb18030) >= _MIN_COMMON_SHARE
    if encoding == "gb18030":
        if gb18030 is None:
            return Reason.INVALID_GB18030
        return (gb18030, True) if is_chinese or utf8 is None else Reason.UNKNOWN_ENCODING
    if utf8 is None:
        return (gb18030, True) if gb18030 is not None and is_chinese else Reason.UNKNOWN_ENCODING
    # A few Greek or Cyrillic letters of UTF-8 are Chinese characters of GB18030 too.
    if is_chinese and not _BEYOND_TWO_BYTES.search(utf8):
        return Reason.UNKNOWN_ENCODING
    return utf8, False


def _decoded(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return None


def common_share(text: str) -> float:
    """Share of the everyday characters of simplified and traditional Chinese among those beyond ASCII."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    codes = codes[codes > 0x7F]
    return float(_common_characters()[np.minimum(codes, 0xFFFF)].mean()) if len(codes) else 1.0


@cache
def _common_characters() -> np.ndarray:
    """Bits [65536]: GB2312's symbols and first level, Big5's first level."""
    table = np.zeros(1 << 16, dtype=bool)
    gb2312 = bytes(byte for row in (*range(0xA1, 0xA4), *range(0xB0, 0xD8)) for low in range(0xA1, 0xFF)
                   for byte in (row, low))  # fmt: skip
    big5 = bytes(byte for row in range(0xA4, 0xC7) for low in (*range(0x40, 0x7F), *range(0xA1, 0xFF))
                 for byte in (row, low))  # fmt: skip
    for data, codec in ((gb2312, "gb2312"), (big5, "big5")):
        table[[ord(char) for char in data.decode(codec, "ignore")]] = True
    return table
