"""Numbers in the words and digits that a reader would choose."""

from collections.abc import Mapping
from typing import Any


def duration(seconds: float) -> str:
    """Return `59 seconds`, `2.5 minutes` or `4.1 hours`."""
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def times(ratio: float) -> str:
    """Return a ratio with the digits that mean something: `0.034`, `0.82`, `2.9`, `12`."""
    if ratio >= 9.95:
        return f"{ratio:,.0f}"
    return f"{ratio:.1f}" if ratio >= 0.995 else f"{ratio:.2g}"


def percent(model: Mapping[str, Any], key: str, error_key: str) -> str:
    """Return a share and its standard error in hundredths, as `59.8 ± 2.1`."""
    return f"{100 * model[key]:.1f} ± {100 * model[error_key]:.1f}"


def shorten(text: str, most: int) -> str:
    """Return the text on one line, cut at `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
