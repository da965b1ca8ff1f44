"""Build a corpus, or verify one.

python launch/build_corpus.py --config configs/corpus/wiki2019zh.json
python launch/build_corpus.py --input PATH ... --format lines --tokenizer FOLDER_OR_ID --output FOLDER
python launch/build_corpus.py --input PATH ... --format lines --explain      (or --config FILE --explain)
python launch/build_corpus.py --verify FOLDER_OR_MANIFEST

A build that was stopped continues when the same command is given again. It uses all cores of this machine. To use
several machines, which must see inputs and output at the same paths, use Ray or a batch scheduler; the corpus is the
same:

Ray      ray start --head                      on the first machine, where the build is then started
         ray start --address=FIRST:6379        on the others; a unit whose worker or machine dies is run again
         C --engine ray
Slurm    each step is a command
         C --plan                                                       prints the number of units
         sbatch --wait --array=0-99 --wrap "C --read-unit \\$SLURM_ARRAY_TASK_ID/100"    job K: units K, K + 100, ...
         C --match                                                      finds duplicates across all units
         sbatch --wait --array=0-99 --wrap "C --encode-unit \\$SLURM_ARRAY_TASK_ID/100"
         C --finish                                                     fails if a unit is missing, and names it

C stands for: python launch/build_corpus.py --config FILE

Exit codes: 0 done, 1 --verify found faults, 2 the input was refused (a line `error: ...`), 130 stopped by Ctrl-C.
"""

import argparse
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.building.builder import Engine, build_corpus, finish_corpus, match_corpus, plan_corpus, run_unit
from corpus.building.encode_step import encode_unit
from corpus.building.read_step import read_unit
from corpus.building.workers import Step
from corpus.cleaning.explanation import explain_source
from corpus.config import BuildConfig, load_config
from corpus.progress import progress, show_progress_with
from corpus.shards.manifest import FILE_NAME, Counts, Manifest, load_manifest
from corpus.shards.shard import verify
from corpus.source import find_inputs
from launch.command_line.next_command import next_line, train_line
from launch.command_line.output_folder import check_writable
from launch.command_line.source_flags import add_source_flags, source_names
from launch.command_line.terminal import accept_any_terminal
from pretrain.models.folder import check_place
from pretrain.progress import Progress

_MAX_SOURCES = 100
_CONFIG_KEYS = {"tokenizer", "output"}
_RUN_KEYS = {
    "config", "overrides", "verify", "workers", "engine", "explain",
    "plan", "read_unit", "match", "encode_unit", "finish",
}  # fmt: skip


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; flags that are not given are None."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="JSON file, as in configs/corpus; flags override its keys")
    parser.add_argument(
        "--set", nargs="+", action="extend", metavar="KEY=VALUE", dest="overrides",
        help="override keys of the configuration, for example sources.0.cleaning.min_characters=50 (docs/keys.md)",
    )  # fmt: skip
    parser.add_argument(
        "--verify",
        metavar="CORPUS",
        help="check every block of a corpus (folder, URL or manifest); build nothing",
    )
    parser.add_argument(
        "--explain", action="store_true", default=None,
        help="show what each cleaning rule changes and drops, with examples; build nothing",
    )  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FOLDER_OR_ID", help="folder or hub id of a fast tokenizer")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder to write the corpus into; must be new, empty, or hold the same corpus",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="units at the same time (default: the number of cores)"
    )
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        help="what runs the units: processes on this machine (default), or a ray cluster",
    )
    steps = parser.add_argument_group("steps of a build, for batch schedulers").add_mutually_exclusive_group()
    steps.add_argument(
        "--plan", action="store_true", default=None, help="find the inputs and divide them into units of work"
    )
    steps.add_argument(
        "--read-unit", metavar="K", help="read and clean unit K (from 0), or with K/N every N-th unit from K on"
    )
    steps.add_argument(
        "--match", action="store_true", default=None, help="find duplicates among the documents of all units"
    )
    steps.add_argument("--encode-unit", metavar="K", help="tokenise unit K; K/N as for --read-unit")
    steps.add_argument("--finish", action="store_true", default=None, help="join the units and write the corpus")
    source = add_source_flags(parser, required=False, title="source (of a configuration with one source)")
    source.add_argument("--id-field", metavar="FIELD", help="field that names the document in messages")
    source.add_argument(
        "--origin-field", metavar="FIELD", help="field with the site or publisher, for cleaning.blocked_origins"
    )
    source.add_argument("--licence", help="licence of the texts, kept in the manifest (default: not stated)")
    source.add_argument("--name", help="name of one source of all inputs (default: a source an input, named after it)")
    return parser.parse_args(arguments)


def build_config(arguments: argparse.Namespace) -> BuildConfig:
    """Return the configuration: the file's, with the flags and the --set values that were given."""
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    overrides = {key: given[key] for key in given.keys() & _CONFIG_KEYS}
    source = {key: given[key] for key in given.keys() - _CONFIG_KEYS - _RUN_KEYS}
    if "inputs" in source and "name" not in source and not arguments.config:
        overrides["sources"] = _sources(source)
        source = {}
    if arguments.explain and not arguments.config:
        overrides = {"tokenizer": "not needed", "output": "not needed"} | overrides
    return load_config(arguments.config, overrides, source, arguments.overrides or ())


def _sources(flags: dict[str, Any]) -> list[dict[str, Any]]:
    """A source for each input, so that a run may weight each and the counts are told apart."""
    inputs = flags["inputs"]
    if len(inputs) > _MAX_SOURCES:
        raise ValueError(
            f"--input: {len(inputs)} inputs would be as many sources, more than {_MAX_SOURCES}; give --name to make "
            "one source of them, or a folder, or a pattern in quotes ('data/*.jsonl')"
        )
    return [flags | {"name": name, "inputs": [text]} for name, text in zip(source_names(inputs), inputs, strict=True)]


def summarize(manifest: Manifest, seconds: float | None = None) -> str:
    """Return a table with a line for each source and the total, the rejected documents and the corpus's fingerprint."""
    header = ("source", "in", "kept", "tokens", "tokens/char", "unk %", "bytes/token")
    lengths = [0] * len(manifest.sources)
    for index, length in zip(manifest.blocks.source, manifest.blocks.length, strict=True):
        lengths[index] += length
    rows = [_columns(s.name, s, length) for s, length in zip(manifest.sources, lengths, strict=True)]
    table = [header, *rows, _columns("total", manifest.totals, sum(lengths))]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in table)
    ]
    for source in manifest.sources:
        for reason, count in source.rejected.items():
            lines.append(f"rejected  {source.name}: {reason} {count:,}, e.g. {source.examples[reason][0]}")
    lines += bad_inputs(manifest)
    num_bytes = sum(item.num_bytes for source in manifest.sources for item in source.inputs)
    rate = f" in {seconds:.1f} s, {num_bytes / 1e6 / seconds:.1f} MB/s" if seconds else ""
    lines.append(
        f"{num_bytes / 1e6:.1f} MB of input{rate}; {len(manifest.blocks):,} blocks in {len(manifest.shards)} shards"
    )
    lines.append(f"{manifest.store.location}  fingerprint {manifest.fingerprint}")
    return "\n".join(lines)


def bad_inputs(manifest: Manifest) -> list[str]:
    """Return a line for each input at fault that was skipped, at least in part."""
    return [f"bad input  {source.name}: {text}" for source in manifest.sources for text in source.bad_inputs]


def _columns(name: str, counts: Counts, num_bytes: int) -> tuple[str, ...]:
    tokens = max(counts.tokens, 1)
    return (
        name,
        f"{counts.documents_in:,}",
        f"{counts.documents:,}",
        f"{counts.tokens:,}",
        f"{counts.tokens / max(counts.characters, 1):.3f}",
        f"{100 * counts.unk_tokens / tokens:.3f}",
        f"{num_bytes / tokens:.2f}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code: 1 if --verify found faults, else 0."""
    if arguments.verify:
        return verify_corpus(arguments)
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers is {arguments.workers}, but must be at least 1")
    config = build_config(arguments)
    if arguments.explain:
        print("\n\n".join(explain(config)))
        return 0
    if not (Path(config.output) / FILE_NAME).is_file():  # a finished corpus may be on a read-only disk
        check_writable(Path(config.output).parent, "output folder")
    check_place(config.tokenizer)
    if run_step(arguments, config):
        return 0
    start = time.perf_counter()
    manifest, is_new = build_corpus(config, arguments.workers, arguments.engine or "processes")
    seconds = time.perf_counter() - start
    print(summarize(manifest, seconds if is_new else None))
    print("built" if is_new else "already built: the folder holds this corpus, nothing was changed")
    print(next_line("python", "launch/inspect_corpus.py", config.output, "--rows", "5"))
    print(train_line(config.output, manifest.tokenizer.name))
    return 0


def explain(config: BuildConfig) -> Iterator[str]:
    """Yield for each source what the cleaning rules do to it."""
    for source in config.sources:
        parts = find_inputs(source)
        size = sum(part.num_bytes for part in parts)
        with progress(source.name, size, "B") as shown:
            yield str(explain_source(source, parts, shown.update))


def verify_corpus(arguments: argparse.Namespace) -> int:
    """Check every block, print the faults, and return the exit code: 1 if there are any."""
    others = sorted(key for key, value in vars(arguments).items() if value is not None and key != "verify")
    if others:
        raise ValueError(f"--verify builds nothing and takes no other flags, got {', '.join(others)}")
    manifest = load_manifest(arguments.verify)
    faults = verify(manifest)
    print(summarize(manifest))
    print("\n".join(faults) or f"verified: {len(manifest.blocks):,} blocks are intact")
    return 1 if faults else 0


def run_step(arguments: argparse.Namespace, config: BuildConfig) -> bool:
    """Run the step that was asked for; return whether there was one."""
    if arguments.plan:
        plan, manifest = plan_corpus(config)
        print("already built" if manifest else f"{len(plan.units)} units, 0 to {len(plan.units) - 1}")
    elif arguments.read_unit is not None:
        _run_units(config, read_unit, "--read-unit", arguments.read_unit)
    elif arguments.match:
        match_corpus(config)
    elif arguments.encode_unit is not None:
        _run_units(config, encode_unit, "--encode-unit", arguments.encode_unit)
    elif arguments.finish:
        print(summarize(finish_corpus(config)))
    else:
        return False
    return True


def _run_units(config: BuildConfig, step: Step, flag: str, units: str) -> None:
    """Run a step for unit K, or for every N-th unit from K on; in an array of more jobs than units some have none."""
    match = re.fullmatch(r"(\d+)(?:/(\d+))?", units, re.ASCII)
    index, every = (int(number) if number else None for number in match.groups()) if match else (None, None)
    if index is None or (every is not None and index >= every):
        wanted = "a unit K, or K/N for every N-th from K on, where K is 0 to N - 1"
        raise ValueError(f"{flag} is {units}, but must be {wanted}")
    print(f"units done: {run_unit(config, step, index, every)}")


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
        print(f"stopped; the same command continues from here\n{next_line('python', *sys.argv)}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
