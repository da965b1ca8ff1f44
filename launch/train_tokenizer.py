"""Trains a tokenizer on text: WordPiece as BERT's, or unigram as XLM-R's. The same text gives the same folder.

python launch/train_tokenizer.py --input PATH ... --format wiki2019zh --kind wordpiece --vocab-size 21128 --output OUT

OUT loads with AutoTokenizer. Its coverage.txt tells how well the vocabulary covers the text.
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
from pretrain.progress import Progress

MAX_TOKENS = 512
_COVERED_TEXTS = 20_000


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source_flags(parser, required=True)
    parser.add_argument("--kind", required=True, choices=("wordpiece", "unigram"))
    parser.add_argument("--vocab-size", type=int, required=True, help="pieces in all, special tokens among them")
    parser.add_argument("--cased", action="store_true", help="wordpiece: keep capitals and accents")
    parser.add_argument(
        "--character-coverage", type=float, default=0.9999,
        help="share of the text's characters that the single characters of the vocabulary make up",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    options = parser.parse_args(arguments)
    if not 0 < options.character_coverage <= 1:
        parser.error(f"--character-coverage must lie above 0 and not above 1, not {options.character_coverage}")
    if options.vocab_size < 10:
        parser.error(f"--vocab-size must be at least 10, not {options.vocab_size}")
    if options.cased and options.kind != "wordpiece":
        parser.error("--cased belongs to --kind wordpiece; unigram always keeps capitals")
    return options


def train(options: argparse.Namespace, source: SourceConfig, folder: Path) -> Coverage:
    """Writes the tokenizer into `folder` and returns its coverage of up to 20,000 of the texts."""
    num_texts = 0

    def counted() -> Iterator[str]:
        nonlocal num_texts
        for text in read_texts(source):
            num_texts += 1
            shown.update()
            yield text

    with Progress("training the tokenizer", unit="texts") as shown:  # the trainer reads on after the last text
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
    """Exit code 0 with the coverage on stdout, 2 with one line on stderr."""
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
