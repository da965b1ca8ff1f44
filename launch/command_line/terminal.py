"""Output to terminals of any encoding."""

import sys


def accept_any_terminal() -> None:
    """Let stdout and stderr write what their encoding lacks as escapes, `\\u4e2d`, rather than raise an error.

    Terminals of GBK, Latin-1 or ASCII lack characters of most texts. Streams that cannot be changed, such as a
    notebook's, take any text already.
    """
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
