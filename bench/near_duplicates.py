"""Near duplicates of real text: the share of edited copies that a build drops, and documents dropped for nothing.

    python bench/near_duplicates.py --input FILE.jsonl ... --tokenizer FOLDER [--documents 2000]

As many documents of each file as of any other, at least 200 characters long; of each a copy, a share of whose
characters is replaced, removed or followed by a new one, a third each. A document that falls without an edited copy
before it is compared with every earlier one, by sets of 5-grams without any hashing: below the limit it fell wrongly.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(ROOT)

from corpus.building.builder import match_corpus, plan_corpus, run_unit
from corpus.building.match_step import load_drops
from corpus.building.read_step import load_read_unit, read_unit
from corpus.building.work_folder import work_folder
from corpus.cleaning.normalization import normalize
from corpus.config import BuildConfig

_MIN_CHARACTERS = 200
# No rule of cleaning, so that the number of a document is that of its line
_BARE = dict.fromkeys(("language_variants", "html", "empty_brackets", "url_lines"), False) | {
    "min_chinese_share": 0.0,
    "max_repeated_line_share": 1.0,
    "max_repeated_ngram_share": 1.0,
}


def choose(files: list[Path], count: int, rng: random.Random) -> list[str]:
    chosen: list[str] = []
    for place, file in enumerate(files):
        with file.open(encoding="utf-8") as lines:
            texts = {normalize(json.loads(line)["text"]) for line in lines}
        long = sorted(text for text in texts if len(text) >= _MIN_CHARACTERS)
        wanted = (count - len(chosen)) // (len(files) - place)
        chosen += rng.sample(long, min(wanted, len(long)))
    return chosen


def edit(text: str, share: float, rng: random.Random) -> str:
    characters = list(text)
    for at in rng.sample(range(len(text)), round(share * len(text))):
        new = chr(0x4E00 + rng.randrange(3000))
        characters[at] = rng.choice((new, "", characters[at] + new))
    return "".join(characters)


def find_dropped(sources: list[list[str]], tokenizer: str) -> list[set[int]]:
    """Numbers of the documents of each source that a build drops as equal or near."""
    with tempfile.TemporaryDirectory() as folder:
        state: dict = {"sources": [], "tokenizer": tokenizer, "output": f"{folder}/out", "near_duplicates": {}}
        for name, texts in enumerate(sources):
            path = Path(folder, f"{name}.jsonl")
            path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
            source = {"name": str(name), "format": "jsonl", "text_fields": ["text"], "cleaning": _BARE}
            state["sources"].append(source | {"inputs": [str(path)]})
        config = BuildConfig.model_validate_json(json.dumps(state))
        plan, _ = plan_corpus(config)
        if len(plan.units) != len(sources):
            raise SystemExit("too many documents: each source must be one unit of work")
        work = work_folder(config)
        for index in range(len(sources)):
            run_unit(config, read_unit, index)
            assert load_read_unit(plan, work, index).tally.documents == len(sources[index])
        match_corpus(config)
        return [set(load_drops(work, index)) for index in range(len(sources))]


def likeness(text: str, others: list[str]) -> float:
    """The largest share of 5-grams that the text has in common with another."""
    mine = grams(text)
    return max((len(mine & theirs) / len(mine | theirs) for theirs in map(grams, others)), default=0.0)


def grams(text: str) -> set[str]:
    return {text[start : start + 5] for start in range(len(text) - 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, type=Path, help="JSON lines with a field text")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--documents", type=int, default=2000)
    arguments = parser.parse_args()
    rng = random.Random(17)
    originals = choose(arguments.input, arguments.documents, rng)
    rng.shuffle(originals)
    median = sorted(map(len, originals))[len(originals) // 2]
    print(f"{len(originals):,} documents of {len(arguments.input)} files, median {median} characters")
    for share in (0.01, 0.02, 0.05):
        copies = [edit(text, share, rng) for text in originals]
        fell, copies_fell = find_dropped([originals, copies], arguments.tokenizer)
        print(f"{share:4.0%} of the characters edited: {len(copies_fell) / len(originals):.4f} of the copies dropped")
    wrong = [number for number in fell if likeness(originals[number], originals[:number]) < 0.7]
    print(f"{len(fell)} of the documents themselves dropped, {len(wrong)} of them wrongly")


if __name__ == "__main__":
    main()
