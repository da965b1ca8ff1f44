"""vocab.txt, a piece a line: what transformers 4's BertTokenizer and most other programs read."""

from pathlib import Path


def read_vocab_file(path: Path) -> list[str]:
    """Return the lines, each the piece whose id is the line's number, from 0."""
    lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 and the like are pieces
    return lines[:-1] if lines[-1] == "" else lines


def write_vocab_file(pieces: list[str], path: Path) -> None:
    """Write the pieces, line by id. Remove the file if one cannot be a line: readers strip white space at its end."""
    if all(piece == piece.rstrip() and not {"\n", "\r"} & set(piece) for piece in pieces):
        path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8", newline="\n")
    else:
        path.unlink(missing_ok=True)
