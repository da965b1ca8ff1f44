"""Building a corpus against the same steps by datasets.map and by datatrove: MB of input a CPU-second, same ids.

    python bench/corpus.py --input FILE.jsonl ... --tokenizer FOLDER [--others PYTHON] [--rounds 3]

Each reads JSON lines, normalises, drops exact duplicates, tokenises, and writes ids; ours also hashes its inputs,
compresses, checksums and syncs, and is measured with its default cleaning and with near duplicates, too. datasets.map
calls the tokenizer as its guide has it, and once more the Rust backend without the rest. Every way is a process of its
own on one core's worth of threads, in turn, the CPU time of its whole process tree counted, starting up left out by a
run on one document. `--others` is the interpreter of a virtual environment for the others, with:
pip install "datatrove[io,processing]==0.10.1" datasets==5.2.0 transformers==5.23.0 tokenizers==0.23.3
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the place of bench/, where this file would hide the package of its name
sys.path[0] = str(ROOT)

import numpy as np

from corpus.cleaning.normalization import normalize
from corpus.config import CleaningSettings


def _switched_off(name: str, default: object) -> object:
    """The value of a key of cleaning with which its rule does nothing."""
    if isinstance(default, bool):
        return False
    if name.endswith("_share"):
        return 1.0 if name.startswith("max") else 0.0
    return default


# No rule of cleaning, for none of the others has one
BARE = {name: _switched_off(name, field.default) for name, field in CleaningSettings.model_fields.items()}


def build_ours(files: list[str], tokenizer: str, output: Path) -> bytes:
    return build(files, tokenizer, output, {"cleaning": BARE}, {})


def build_cleaned(files: list[str], tokenizer: str, output: Path) -> bytes:
    return build(files, tokenizer, output, {}, {})


def build_without_near_duplicates(files: list[str], tokenizer: str, output: Path) -> bytes:
    return build(files, tokenizer, output, {}, {"near_duplicates": {}})


def build(files: list[str], tokenizer: str, output: Path, of_source: dict, of_corpus: dict) -> bytes:
    """The ids of the corpus, one document after another, uint16."""
    from corpus.building.builder import build_corpus
    from corpus.config import BuildConfig
    from corpus.shards.shard import read_block

    source = {"name": "bench", "format": "jsonl", "text_fields": ["text"], "inputs": files} | of_source
    state = {"sources": [source], "tokenizer": tokenizer, "output": str(output)} | of_corpus
    manifest, _ = build_corpus(BuildConfig.model_validate_json(json.dumps(state)), 1)
    return b"".join(read_block(manifest, index)[0].tobytes() for index in range(len(manifest.blocks)))


def build_by_datasets(files: list[str], tokenizer: str, output: Path) -> bytes:
    from transformers import AutoTokenizer

    call = AutoTokenizer.from_pretrained(tokenizer)
    call.model_max_length = sys.maxsize  # or it warns of every long text
    return map_datasets(files, output, lambda texts: call(texts, add_special_tokens=False)["input_ids"])


def build_by_datasets_and_backend(files: list[str], tokenizer: str, output: Path) -> bytes:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return map_datasets(files, output, encode)


def map_datasets(files: list[str], output: Path, encode: Callable[[list[str]], list[list[int]]]) -> bytes:
    import datasets

    seen: set[bytes] = set()

    def is_new(text: str) -> bool:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return not (not text or digest in seen or seen.add(digest))

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list]:
        texts = [text for text in map(normalize, batch["text"]) if is_new(text)]
        return {"ids": encode(texts) if texts else []}

    raw = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(output))
    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("uint16"))})
    done = raw.map(tokenize, batched=True, remove_columns=raw.column_names, features=features)
    chunks = [chunk.flatten().to_numpy() for chunk in done.data.column("ids").chunks]
    return np.concatenate(chunks).astype("<u2").tobytes()


def build_by_datatrove(files: list[str], tokenizer: str, output: Path) -> bytes:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    seen: set[bytes] = set()

    def normalized(documents, rank: int = 0, world_size: int = 1):
        for document in documents:
            document.text = normalize(document.text)
            digest = hashlib.blake2b(document.text.encode(), digest_size=16).digest()
            if document.text and digest not in seen:
                seen.add(digest)
                yield document

    (output / "in").mkdir(parents=True)
    for index, file in enumerate(files):
        (output / f"in/{index:03d}.jsonl").symlink_to(Path(file).resolve())
    # It always adds the post-processor's special tokens, so it gets a tokenizer without one.
    state = json.loads(Path(tokenizer, "tokenizer.json").read_text("utf-8")) | {"post_processor": None}
    (output / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    writer = DocumentTokenizer(
        str(output / "out"), tokenizer_name_or_path=str(output / "tokenizer.json"), shuffle_documents=False
    )
    LocalPipelineExecutor([JsonlReader(str(output / "in")), normalized, writer], logging_dir=str(output / "log")).run()
    return b"".join(path.read_bytes() for path in sorted((output / "out").glob("*.ds")))


WAYS: dict[str, Callable[[list[str], str, Path], bytes]] = {
    "ours": build_ours,
    "datasets.map": build_by_datasets,
    "datasets.map, backend": build_by_datasets_and_backend,
    "datatrove": build_by_datatrove,
    "ours, cleaned": build_cleaned,
    "ours, near duplicates": build_without_near_duplicates,
}


def measure(way: str, python: str, files: list[str], tokenizer: str) -> tuple[float, str]:
    """CPU-seconds of one build in a process of its own, and the hash of its ids."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python, __file__, "--way", way, "--tokenizer", tokenizer, "--input", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stdout.split()[-1]


def compare(arguments: argparse.Namespace) -> None:
    pythons = {way: sys.executable if way.startswith("ours") else arguments.others for way in WAYS}
    ways = [way for way in WAYS if pythons[way]]
    num_bytes = sum(Path(file).stat().st_size for file in arguments.input)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    hashes: dict[str, str] = {}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as tiny:
        tiny.write('{"text": "天地"}\n')
        tiny.flush()
        for _ in range(arguments.rounds):
            for way in ways:
                startup, _ = measure(way, pythons[way], [tiny.name], arguments.tokenizer)
                total, hashes[way] = measure(way, pythons[way], arguments.input, arguments.tokenizer)
                seconds[way].append(total - startup)
    ours = statistics.median(seconds["ours"])
    print(f"{num_bytes / 1e6:.1f} MB of input, medians of {arguments.rounds} rounds, MB of input a CPU-second")
    for way in ways:
        median = statistics.median(seconds[way])
        rates = f"{num_bytes / 1e6 / median:6.2f} ({num_bytes / 1e6 / max(seconds[way]):.2f} to "
        rates += f"{num_bytes / 1e6 / min(seconds[way]):.2f})"
        same = "same ids" if hashes[way] == hashes["ours"] else "other documents are dropped, so other ids"
        print(f"{way:22} {rates:24} ours is {median / ours:5.2f} times as fast, {same}")
    if not arguments.others:
        print("--others not given: nothing to compare with")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, help="JSON lines with a field text")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json")
    parser.add_argument("--others", help="interpreter that has datasets and datatrove")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="one build, the hash of its ids; used by the bench itself")
    arguments = parser.parse_args()
    if not arguments.way:
        return compare(arguments)
    with tempfile.TemporaryDirectory() as folder:
        ids = WAYS[arguments.way](arguments.input, arguments.tokenizer, Path(folder, "corpus"))
        print(hashlib.sha256(ids).hexdigest())
    return None


if __name__ == "__main__":
    main()
