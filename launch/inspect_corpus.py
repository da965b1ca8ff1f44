"""Show a built corpus: sources, rejected and changed documents, lengths of documents, rows as the model sees them.

python launch/inspect_corpus.py CORPUS_FOLDER
python launch/inspect_corpus.py CORPUS_FOLDER --rows 5 --row-tokens 128 --seed 3      # random rows, decoded
python launch/inspect_corpus.py CORPUS_FOLDER --run-config configs/4l312d.json        # steps per epoch in that run
python launch/inspect_corpus.py CORPUS_FOLDER --verify                                # checks every block

Exit codes: 0 done, 1 --verify found faults, 2 the input was refused (a line `error: ...`), 130 stopped by Ctrl-C.
"""

import argparse
import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.progress import show_progress_with, track
from corpus.rows.packing import MIN_ROW_TOKENS
from corpus.rows.stream import RowStream
from corpus.shards.manifest import Counts, Manifest, load_manifest
from corpus.shards.shard import read_block, verify
from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from launch.command_line.next_command import train_line
from launch.command_line.terminal import accept_any_terminal
from launch.distillation.config import read_run_config
from launch.distillation.prompt import read_prompt
from pretrain.models.folder import check_place
from pretrain.progress import Progress

# For document lengths: enough of a large corpus, at a tenth of a second each
_MAX_SAMPLED_BLOCKS = 256
_BAR_WIDTH = 40


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder or URL of a corpus, or its manifest")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="show N random rows, decoded (default: 0)")
    parser.add_argument(
        "--row-tokens", type=int, default=128, metavar="L", help="tokens of each of these rows (default: 128)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for choosing these rows (default: 0)")
    parser.add_argument(
        "--tokenizer", help="folder or hub id of the corpus's tokenizer (default: as when it was built)"
    )
    parser.add_argument(
        "--run-config", type=Path, metavar="FILE", help="JSON file of a run: show how many steps an epoch of it has"
    )
    parser.add_argument("--verify", action="store_true", help="check every block")
    options = parser.parse_args(arguments)
    if options.rows < 0:
        parser.error(f"--rows: must be 0 or more, got {options.rows}")
    if options.row_tokens < MIN_ROW_TOKENS:
        parser.error(f"--row-tokens: must be at least {MIN_ROW_TOKENS}, got {options.row_tokens}")
    return options


def sources_table(manifest: Manifest) -> str:
    """Return a table of sources: documents read and kept, tokens, and how well the vocabulary covers the text."""
    header = ("source", "format", "licence", "in", "kept", "tokens", "share", "tokens/doc", "tokens/char", "unk %")
    all_tokens = manifest.totals.tokens
    rows = [(s.name, s.format, s.licence, *_columns(s, all_tokens)) for s in manifest.sources]
    return _table([header, *rows, ("total", "", "", *_columns(manifest.totals, all_tokens))], num_text_columns=3)


def _columns(counts: Counts, all_tokens: int) -> tuple[str, ...]:
    tokens = max(counts.tokens, 1)
    return (
        f"{counts.documents_in:,}",
        f"{counts.documents:,}",
        f"{counts.tokens:,}",
        f"{counts.tokens / all_tokens:.1%}",
        f"{counts.tokens / max(counts.documents, 1):,.0f}",
        f"{counts.tokens / max(counts.characters, 1):.3f}",
        f"{100 * counts.unk_tokens / tokens:.3f}",
    )


def rejects_table(manifest: Manifest) -> str:
    """Return a table of rejected documents by source and reason, duplicates included, with the first of them."""
    rows = [
        (source.name, reason.value, f"{count:,}", f"{count / source.documents_in:.2%}", ", ".join(examples))
        for source in manifest.sources
        for reason, count in source.rejected.items()
        for examples in [source.examples.get(reason, [])]
    ]
    return _table([("rejected of", "reason", "documents", "of all", "first"), *rows], num_text_columns=2)


def changes_table(manifest: Manifest) -> str:
    """Return a table of how many documents each cleaning rule changed."""
    rows = [
        (source.name, change.value, f"{count:,}", f"{count / source.documents_in:.2%}")
        for source in manifest.sources
        for change, count in source.changed.items()
    ]
    return _table([("changed of", "rule", "documents", "of all"), *rows], num_text_columns=2)


def bad_inputs_table(manifest: Manifest) -> str:
    """Return a table of the inputs at fault that were skipped, at least in part, and what is wrong with each."""
    rows = [(source.name, text) for source in manifest.sources for text in source.bad_inputs]
    return _table([("bad input of", "what is wrong"), *rows], num_text_columns=2)


def _table(rows: Iterable[tuple[str, ...]], num_text_columns: int) -> str:
    """Align columns: the first `num_text_columns`, and a last fifth one, to the left, all others to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [
        [cell.ljust(width) if index < num_text_columns or (index == len(columns) - 1 and len(columns) == 5)
         else cell.rjust(width) for cell in column]
        for index, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]  # fmt: skip
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*aligned, strict=True))


def length_histogram(manifest: Manifest) -> str:
    """Return a table of documents and tokens by document length in powers of two, from evenly spread blocks."""
    num_blocks = len(manifest.blocks)
    chosen = np.unique(np.linspace(0, num_blocks - 1, min(num_blocks, _MAX_SAMPLED_BLOCKS)).astype(int))
    lengths = np.concatenate(
        [read_block(manifest, int(index))[1] for index in track(chosen, "lengths", len(chosen), "blocks")]
    )
    exponents = np.log2(lengths).astype(int)
    documents = np.bincount(exponents)
    tokens = np.bincount(exponents, weights=lengths)
    rows = [
        (f"{1 << index:,} to {(2 << index) - 1:,}", f"{count:,}", f"{count / len(lengths):.1%}",
         f"{held / lengths.sum():.1%}", "#" * round(_BAR_WIDTH * count / documents.max()))
        for index, (count, held) in enumerate(zip(documents, tokens, strict=True))
        if count
    ]  # fmt: skip
    sample = "" if len(chosen) == num_blocks else f" in {len(chosen)} of {num_blocks:,} blocks"
    quarters = ", ".join(f"{value:,.0f}" for value in np.percentile(lengths, [25, 50, 75]))
    title = f"length of {len(lengths):,} documents{sample}: quartiles {quarters}, longest {lengths.max():,} tokens"
    return f"{title}\n" + _table([("tokens", "documents", "of all", "of tokens", ""), *rows], num_text_columns=1)


def decoded_rows(manifest: Manifest, count: int, row_tokens: int, seed: int, tokenizer_name: str) -> Iterator[str]:
    """Yield random rows, decoded, without repetition. Raise ValueError if the tokenizer is not the corpus's."""
    check_place(tokenizer_name)
    tokenizer = load_tokenizer(tokenizer_name)
    if tokenizer_fingerprint(tokenizer) != manifest.tokenizer.fingerprint:
        raise ValueError(f"tokenizer {tokenizer_name!r}: is not the one the corpus was built with")
    stream = RowStream(manifest, row_tokens, seed)
    positions = random.Random(seed).sample(range(stream.rows_per_epoch), min(count, stream.rows_per_epoch))
    for position, ids in zip(positions, stream.rows(np.array(positions)), strict=True):
        num_tokens = int(np.count_nonzero(ids != manifest.tokenizer.pad_token_id))
        yield f"row {position:,} ({num_tokens} tokens): {tokenizer.decode(ids[:num_tokens])}"


def epoch_line(manifest: Manifest, path: Path) -> str:
    """Return the rows and steps of an epoch under a run configuration, and how many epochs the run has."""
    config = read_run_config(path)
    wanted, prompt = config.corpus, read_prompt(config)
    text_tokens = wanted.row_tokens - (len(prompt.ids) if prompt else 0)
    stream = RowStream(manifest, text_tokens, wanted.seed, wanted.weights, wanted.rows)
    return f"{path}: {config.length(stream.rows_per_epoch)}"


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code: 1 if --verify found faults, else 0."""
    manifest = load_manifest(arguments.corpus)
    faults = verify(manifest) if arguments.verify else []
    if not faults:
        tables = [sources_table(manifest)]
        tables += [rejects_table(manifest)] if manifest.totals.rejected else ["nothing was rejected"]
        tables += [changes_table(manifest)] if manifest.totals.changed else []
        tables += [bad_inputs_table(manifest)] if any(source.bad_inputs for source in manifest.sources) else []
        print("\n\n".join([*tables, length_histogram(manifest)]), end="\n\n")
    if arguments.rows:
        name = arguments.tokenizer or manifest.tokenizer.name
        print("\n".join(decoded_rows(manifest, arguments.rows, arguments.row_tokens, arguments.seed, name)), end="\n\n")
    if arguments.run_config:
        print(epoch_line(manifest, arguments.run_config))
    print(
        f"tokenizer {manifest.tokenizer.name} of {manifest.tokenizer.vocab_size:,} tokens, {manifest.tokenizer.dtype}"
    )
    print(f"{len(manifest.blocks):,} blocks in {len(manifest.shards)} shards, fingerprint {manifest.fingerprint}")
    if arguments.verify:
        print("\n".join(faults) or f"verified: {len(manifest.blocks):,} blocks are intact")
    if not faults:
        print(train_line(arguments.corpus, manifest.tokenizer.name))
    return 1 if faults else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    accept_any_terminal()
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    show_progress_with(Progress)
    try:
        return run(parse_arguments(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
