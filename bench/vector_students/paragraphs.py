"""Cut documents into texts of at most --most characters, at lines and ends of sentences, for rows of one text each.

python -m bench.vector_students.paragraphs --input data/corpus/*.jsonl --output data/paragraphs
python -m bench.vector_students.paragraphs --input data/corpus/*.jsonl --output data/sentences --most 40
"""

import argparse
import re
from pathlib import Path

import orjson

MOST, LEAST = 200, 15  # characters of a text


def pieces(text: str, most: int = MOST) -> list[str]:
    """Return the texts of a document: lines joined while they fit, longer ones cut after sentences."""
    found, current = [], ""
    for line in filter(None, map(str.strip, text.split("\n"))):
        parts = [line] if len(line) <= most else [one for one in re.split(r"(?<=[。！？；])", line) if one.strip()]
        for index, part in enumerate(parts):
            if current and len(current) + len(part) > most:
                found.append(current)
                current = ""
            current += ("\n" if current and not index else "") + part
    return [one for one in [*found, current] if len(one) >= min(LEAST, most // 5)]


def main() -> None:
    """Write a file for each input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="JSON lines with id and text")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--most", type=int, default=MOST, help="characters of a text; a sentence is never cut (200)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.input:
        with path.open("rb") as lines, (options.output / path.name).open("wb") as out:
            for line in lines:
                document = orjson.loads(line)
                for number, text in enumerate(pieces(document["text"], options.most)):
                    one = {"id": f"{document['id']}#{number}", "url": "", "title": "", "text": text}
                    out.write(orjson.dumps(one) + b"\n")


if __name__ == "__main__":
    main()
