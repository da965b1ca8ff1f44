"""The most memory that a build takes, for inputs of 10 MB to 10 GB made of one file.

    python bench/memory.py --input FILE.jsonl --tokenizer FOLDER --scratch FOLDER [--megabytes 10 100 1000 10000]

The file is repeated with a tenth of its characters beyond ASCII left out at random, others each time, so that neither
equal nor near duplicates swallow the repetitions. Every size is built by one worker, near duplicates sought, in a
process of its own, and deleted; the scratch folder needs about three times the largest size. Linux only.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(ROOT)

import numpy as np

_LEFT_OUT = 0.1
_LINES_BYTES = 32 << 20


def repeat(source: Path, target: Path, num_bytes: int) -> None:
    """Writes whole lines, one repetition after another, until there are `num_bytes` at least."""
    rng = np.random.default_rng(17)
    with target.open("wb") as file:
        while file.tell() < num_bytes:
            with source.open("rb") as lines:
                while file.tell() < num_bytes and (some := lines.readlines(min(_LINES_BYTES, num_bytes - file.tell()))):
                    codes = np.frombuffer(b"".join(some).decode().encode("utf-32-le"), dtype="<u4")
                    kept = codes[(codes < 0x80) | (rng.random(len(codes), dtype=np.float32) >= _LEFT_OUT)]
                    file.write(kept.tobytes().decode("utf-32-le").encode())


def build(source: Path, tokenizer: str, output: Path) -> None:
    """Prints documents in and kept, and the peak of resident memory in MB: what `main` runs for every size."""
    from corpus.building.builder import build_corpus
    from corpus.config import BuildConfig

    state = {
        "sources": [{"name": "bench", "format": "jsonl", "text_fields": ["text"], "inputs": [str(source)]}],
        "tokenizer": tokenizer,
        "output": str(output),
        "near_duplicates": {},
    }
    manifest, _ = build_corpus(BuildConfig.model_validate_json(json.dumps(state)), 1)
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024  # not ru_maxrss: that begins with the parent's
    print(manifest.totals.documents_in, manifest.totals.documents, f"{peak:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="JSON lines with a field text")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--scratch", required=True, type=Path, help="folder for what is made and deleted")
    parser.add_argument("--megabytes", nargs="+", type=int, default=[10, 100, 1000, 10_000])
    parser.add_argument("--output", type=Path, help="one build; used by the bench itself")
    arguments = parser.parse_args()
    if arguments.output:
        return build(arguments.input, arguments.tokenizer, arguments.output)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    made, output = arguments.scratch / "repeated.jsonl", arguments.scratch / "corpus"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for megabytes in arguments.megabytes:
        repeat(arguments.input, made, megabytes * 1_000_000)
        command = [sys.executable, __file__, "--input", str(made), "--tokenizer", arguments.tokenizer]
        command += ["--scratch", str(arguments.scratch), "--output", str(output)]
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
        num_in, num_kept, peak = map(int, done.stdout.split())
        size = made.stat().st_size / 1e6
        print(
            f"{size:9,.0f} MB  {num_in:10,} documents, {num_kept:10,} kept  "
            f"peak {peak:6,} MB  {size / seconds:5.1f} MB/s",
            flush=True,
        )
        shutil.rmtree(output)
        made.unlink()
    return None


if __name__ == "__main__":
    main()
