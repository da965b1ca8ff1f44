"""Train a tokenizer on text: WordPiece like BERT's, or unigram like XLM-R's. The same text gives the same tokenizer.

python launch/train_tokenizer.py --input PATH ... --format wiki2019zh --kind wordpiece --vocab-size 21128 --output OUT

OUT loads with AutoTokenizer. OUT/coverage.txt says how well the vocabulary covers the text.
Exit codes: 0 done, 2 the input was refused (a line `error: ...`), 130 stopped by Ctrl-C.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.config import SourceConfig
from corpus.vocabulary.coverage import Coverage, measure_coverage
from corpus.vocabulary.texts import read_texts
from corpus.vocabulary.tokenizer import load_tokenizer
from corpus.vocabulary.training import save_backend, train_unigram, train_wordpiece
from launch.command_line.next_command import build_line
from launch.command_line.output_folder import new_output_folder
from launch.command_line.source_flags import add_source_flags, build_source
from launch.command_line.terminal import accept_any_terminal
from pretrain.progress import Progress

MAX_TOKENS = 512
_COVERED_TEXTS = 20_000


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line and check the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source_flags(parser, required=True)
    parser.add_argument("--kind", required=True, choices=("wordpiece", "unigram"), help="model of the tokenizer")
    parser.add_argument(
        "--vocab-size",
        type=int,
        required=True,
        metavar="N",
        help="number of pieces, special tokens included; at least 10",
    )
    parser.add_argument(
        "--cased", action="store_true", help="wordpiece: keep capitals and accents (default: lowercase)"
    )
    parser.add_argument(
        "--character-coverage", type=float, default=0.9999, metavar="SHARE",
        help="share of the text's characters that the vocabulary's single characters cover (default: 0.9999)",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to write the tokenizer into; must not exist",
    )
    options = parser.parse_args(arguments)
    if not 0 < options.character_coverage <= 1:
        parser.error(f"--character-coverage must be above 0 and at most 1, got {options.character_coverage}")
    if options.vocab_size < 10:
        parser.error(f"--vocab-size must be at least 10, got {options.vocab_size}")
    if options.cased and options.kind != "wordpiece":
        parser.error("--cased is for --kind wordpiece; unigram always keeps capitals")
    return options


def train(options: argparse.Namespace, source: SourceConfig, folder: Path) -> Coverage:
    """Train, write the tokenizer into `folder` and return its coverage of up to 20,000 of the texts."""
    num_texts = 0

    def counted() -> Iterator[str]:
        nonlocal num_texts
        for text in read_texts(source):
            num_texts += 1
            shown.update()
            yield text

    with Progress("training the tokenizer", unit="texts") as shown:  # includes training after the last text is read
        if options.kind == "wordpiece":
            backend = train_wordpiece(counted(), options.vocab_size, options.character_coverage, not options.cased)
        else:
            backend = train_unigram(counted(), options.vocab_size, options.character_coverage)
    save_backend(backend, MAX_TOKENS, folder)
    step = -(-num_texts // _COVERED_TEXTS)
    sample = (text for index, text in enumerate(read_texts(source)) if index % step == 0)
    with Progress("measuring the coverage"):
        coverage = measure_coverage(load_tokenizer(str(folder)), sample)
    (folder / "coverage.txt").write_text(f"{coverage}\n", encoding="utf-8")
    return coverage


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    accept_any_terminal()
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    options = parse_arguments(arguments)
    try:
        source = build_source(options)
        with new_output_folder(options.output) as folder:
            coverage = train(options, source, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.output}: {options.kind} tokenizer\n{coverage}")
    print(build_line(options, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
