"""Augment a task's training texts for distillation: copies with other words, to which a teacher knows the answers.

    python launch/augment_task.py --config configs/tasks/tnews.json --source masked_language \\
        --model hfl/chinese-roberta-wwm-ext --output data/augmented/tnews [--copies 20] [--workers 4]

Sources: masked_language, words that a masked-language model predicts in their place, a whole word at once; neighbours,
words whose embeddings in the model are near, for any encoder; mask_and_ngram, words masked and texts cut short. Copies
that are least like their text, by the cosine of the model's vectors, are dropped. Of a pair one text is changed at a
time. Words are replaced by words of the same length, so the spans of entities and coreference stay where they are.

The output folder has augmented.jsonl, which is given to launch/td.py as task.augmented: stages with a teacher learn its
answers to these texts, and no stage learns their labels. The same texts are made by any number of workers; a stopped
command goes on when it is given again.

Exit codes: 0 done; 2 invalid input; 75 stopped: run again to go on.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(ROOT)

from launch.command_line.next_command import next_line
from launch.command_line.wording import shorten
from launch.job.command import run_stoppable
from pretrain.progress import say
from pretrain.ranks.stopping import Stopped, StopRequest
from tasks.augmentation.config import AugmentationConfig, SourceName
from tasks.config import TaskConfig

_FEW_WORDS = 5000
_NUM_SHOWN, _WIDTH = 3, 100  # copies in the summary, and characters of each


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Decode the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="TASK", help="a task file as for td.py, or its name")
    parser.add_argument("--source", required=True, choices=get_args(SourceName), help="where other words come from")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the model that finds words, or its hub id")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--copies", type=int, help="copies of each record, after the worst are dropped (20)")
    parser.add_argument("--prob", type=float, help="probability of a word to be replaced (0.4), or masked (0.1)")
    parser.add_argument("--candidates", type=int, help="words to choose from for each word (15)")
    parser.add_argument("--drop", type=float, help="share of the copies to drop, the least like their text (0.5)")
    parser.add_argument("--seed", type=int, help="seed of the random choices (17)")
    parser.add_argument("--words-from", type=Path, metavar="FILE", help="for neighbours: a text a line, whose words "
                        "are chosen from, instead of those of the task's texts")  # fmt: skip
    parser.add_argument("--workers", type=int, help="number of processes (one for each GPU, or each core)")
    return parser.parse_args(arguments)


def read_settings(options: argparse.Namespace) -> tuple[TaskConfig, AugmentationConfig]:
    """Return the task and the configuration. Raise ValueError for what does not fit together."""
    from corpus.config_file import validate
    from launch.evaluation.config import read_task_file

    task = read_task_file(options.config, "--config")
    names = ("source", "model", "copies", "prob", "candidates", "drop", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = validate(AugmentationConfig, given, "command line")
    config.check(task)
    if options.words_from and config.source != "neighbours":
        raise ValueError(f"--words-from: is for --source neighbours, not for {config.source}")
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers: must be at least 1, got {options.workers}")
    if options.output.exists():
        raise ValueError(f"--output {options.output}: already exists; remove it or give another")
    return task, config


def run(options: argparse.Namespace, stop: StopRequest) -> None:
    """Augment the task. Raise ValueError for what cannot be used, Stopped if asked to stop."""
    from corpus.vocabulary.word_planes import load_segmenter
    from launch.augmentation.work_folder import SHARD_RECORDS, WorkFolder
    from launch.augmentation.workers import default_workers, read_numbered, run_shards
    from tasks.augmentation.texts import common_words, texts_of

    task, config = read_settings(options)
    segmenter, folder = load_segmenter("augmentation"), WorkFolder(options.output)
    records = read_numbered(task)
    texts = [text.text for _, record in records for text in texts_of(record, task, segmenter)]
    if not texts:
        raise ValueError(f"{task.train}: contains no texts to augment")
    words: list[str] = []
    if config.source == "neighbours":
        words = common_words(_lines(options.words_from) if options.words_from else texts, segmenter)
        if not words:
            where = options.words_from or task.train
            raise ValueError(f"{where}: has no Chinese words to choose from; give a file of more text as --words-from")
        if len(words) < _FEW_WORDS:
            say(
                f"warning: there are {len(words):,} words to choose from, too few for near ones; give --words-from a "
                "file of more text"
            )
    num_shards = -(-len(records) // SHARD_RECORDS)
    stop.waits_for = lambda: "once the shards that are worked on are written"
    with folder.held():
        todo = folder.begin(task, config, words, num_shards)
        if done := num_shards - len(todo):
            say(f"goes on after {done:,} of {num_shards:,} shards")
        num_workers = max(1, min(options.workers or default_workers(), len(todo)))
        say(f"{task.name}: {len(records):,} records; {num_workers} {'process' if num_workers == 1 else 'processes'}")
        if not run_shards(folder, todo, num_workers, done, lambda: bool(stop.reason)):
            raise Stopped(f"{stop.reason}; what is done is kept")
        folder.finish(num_shards)
    print(summary(folder, task, config, records, options.config))


def summary(folder: Any, task: TaskConfig, config: AugmentationConfig, records: Sequence[Any], file: str) -> str:
    """Return what was made, some of it, and the command to type next."""
    from launch.augmentation.work_folder import FILE

    by_name: Counter[Any] = Counter()
    shown: list[str] = []
    column = str(task.columns.text) if task.kind in ("sentence", "pair") else "text"
    for one in folder.read():
        by_name[one["source"]] += 1
        if len(shown) < _NUM_SHOWN and by_name[one["source"]] == 1:
            shown.append(f"  {shorten(str(one[column]), _WIDTH)}")
    total, num_records = by_name.total(), len(records)
    lines = [f"{total:,} copies of {len(by_name):,} of {num_records:,} records: {folder.output / FILE}", *shown]
    if few := num_records - sum(count >= config.copies for count in by_name.values()):
        lines.append(f"{few:,} records have fewer than {config.copies} copies: they have few words to replace")
    if not total:
        return (
            f"{lines[0]}\nno copy could be made: these texts have no words to replace, or none was found in their place"
        )
    path = file if file.endswith(".json") else f"configs/tasks/{file}.json"
    lines.append(next_line("deepspeed", "launch/td.py", "--config", path, "--set",
                           f"task.augmented={folder.output / FILE}"))  # fmt: skip
    return "\n".join(lines)


def _lines(path: Path) -> list[str]:
    from tasks.kinds.record_files import read_text

    return [line for line in read_text(path).split("\n") if line.strip()]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run_stoppable(lambda: parse_arguments(arguments), run)


if __name__ == "__main__":
    sys.exit(main())
