"""General distillation: one frozen teacher, one or several students, one DeepSpeed engine each.

    deepspeed launch/gd.py --config configs/4l312d.json [--run runs/mine] [--set teacher.path=... corpus.seed=3]

Continues a run that was stopped. Exit codes: 0 done, 2 the input was refused (the message says why), 1 anything else.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# The deepspeed launcher puts only launch/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers.utils import logging as transformers_logging

from corpus.manifest import Manifest, load_manifest
from corpus.stream import RowStream
from corpus.tokenizer import load_tokenizer, tokenizer_fingerprint
from launch.run_config import RunConfig, changed_keys, read_run_config
from pretrain.engine import StudentEngine, start_distributed
from pretrain.student import build_student
from pretrain.teacher import Teacher, fingerprint, load_teacher_model, read_teacher_shape
from pretrain.trainer import Trainer


def parse_arguments() -> argparse.Namespace:
    """The command line; `--local_rank` is what the launcher prepends (LOCAL_RANK says the same)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="run folder; runs/<config's name> unless given")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def check_input(config: RunConfig, run: Path) -> Manifest:
    """Refuse, before any process group, whatever can be refused now; gives the corpus."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    config.deepspeed.accumulation_steps(world_size)
    config.check(read_teacher_shape(config.teacher.path))
    manifest = load_manifest(config.corpus.manifest)
    expected = tokenizer_fingerprint(load_tokenizer(config.teacher.path))
    if manifest.tokenizer.fingerprint != expected:
        raise ValueError(
            f"corpus.manifest: {config.corpus.manifest} was built with the tokenizer {manifest.tokenizer.name} "
            f"({manifest.tokenizer.fingerprint[:12]}), the teacher {config.teacher.path} has another "
            f"({expected[:12]}); build the corpus with the teacher's tokenizer"
        )
    check_run_folder(config, manifest, run)
    return manifest


def check_run_folder(config: RunConfig, manifest: Manifest, run: Path) -> None:
    """Refuse a run folder that another config or another corpus made."""
    if not (run / "config.json").is_file():
        return
    changed = changed_keys(json.loads((run / "config.json").read_text()), config.model_dump(mode="json"))
    facts = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    if facts and facts["corpus"]["fingerprint"] != manifest.fingerprint:
        changed.append("corpus.manifest (the corpus itself has changed)")
    if changed:
        raise ValueError(
            f"{run}: belongs to another config; different: {', '.join(changed)}. "
            "Give another --run folder, or the config that began this one"
        )


def write_run_folder(
    config: RunConfig, manifest: Manifest, teacher_fingerprint: str, unreached: dict, run: Path
) -> None:
    """config.json, run.json and tokenizer/: what publishing and every later reader needs to know about the run."""
    run.mkdir(parents=True, exist_ok=True)
    corpus = {"fingerprint": manifest.fingerprint, **manifest.totals.model_dump(include={"tokens", "documents"})}
    corpus["sources"] = [{"name": source.name, "licence": source.licence} for source in manifest.sources]
    facts = {
        "corpus": corpus,
        "teacher": {"path": config.teacher.path, "fingerprint": teacher_fingerprint},
        "unreached_parameters": unreached,
    }
    (run / "config.json").write_text(config.model_dump_json(indent=2))
    (run / "run.json").write_text(json.dumps(facts, ensure_ascii=False, indent=2))
    load_tokenizer(config.teacher.path).save_pretrained(run / "tokenizer")


def distil(config: RunConfig, manifest: Manifest, run: Path) -> None:
    """Build teacher, students and engines on every rank, and train."""
    device = start_distributed()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    teacher_model = load_teacher_model(config.teacher.path)
    teacher_fingerprint = fingerprint(teacher_model)
    students = [build_student(student, teacher_model, config.training.seed) for student in config.students]
    teacher = Teacher(teacher_model, [student.teacher_reads for student in students], config.teacher.dtype, device)
    unreached = {student.name: student.to(device).freeze_unreached(teacher) for student in students}
    if rank == 0:
        write_run_folder(config, manifest, teacher_fingerprint, unreached, run)
    steps = config.training.total_steps
    engines = [
        StudentEngine(student, settings, config.deepspeed, steps, world_size)
        for student, settings in zip(students, config.students, strict=True)
    ]
    stream = RowStream(manifest, config.corpus.row_tokens, config.corpus.seed)
    rows = config.deepspeed.train_micro_batch_size_per_gpu
    trainer = Trainer(
        run,
        config.training,
        teacher,
        engines,
        lambda position: stream.batches(position, rows, rank, world_size),
        config.deepspeed.train_batch_size,
        config.corpus.row_tokens,
        device,
    )
    trainer.train()


def main() -> None:
    """Refuse in the first second, or train."""
    arguments = parse_arguments()
    run = arguments.run or Path("runs") / arguments.config.stem
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the teacher comes without its head: that is meant
    try:
        config = read_run_config(arguments.config, arguments.overrides)
        manifest = check_input(config, run)
    except ValueError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"refused: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(3)  # the launcher ends every rank when the first one goes: let the one that speaks finish
        sys.exit(2)
    try:
        distil(config, manifest, run)
    except ValueError as error:
        print(f"[rank {os.environ['RANK']}] stopped: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
