"""Two tiny real tokenizers and a tiny corpus, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from tests import processes

HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
# For texts of random characters, which the rules on characters would drop.
NO_CHARACTER_RULES = {"wrongly_decoded": False, "min_function_share": 0.0}
NAMES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}


def save(backend: Tokenizer, folder: Path, **names: str) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """Builds start no workers unless a test asks for some, and those are forked as the ranks of other tests are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corpus.building.workers.num_usable_cores", lambda: 1)
        patch.setattr("corpus.building.workers.IMPORTS", processes.IMPORTS)
        yield


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits at whitespace only, so that a literal [MASK] reaches the vocabulary in one piece."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *HAN,
        *(f"##{char}" for char in HAN),
        "hello",
        "[",
        "]",
    ]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100_000))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.normalizer = normalizers.Replace("HELLO", "hello")
    return save(backend, tmp_path_factory.mktemp("wordpiece"), mask_token="[MASK]", **NAMES)


@pytest.fixture(scope="session")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As XLM-R's: the special tokens are pieces of the model too, and would be found in text."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(token, 0.0) for token in specials] + [(char, -5.0) for char in f"▁{HAN}</>smak"] + [("<mask>", 0.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return save(backend, tmp_path_factory.mktemp("unigram"), mask_token="<mask>", **names)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """300 different documents of 1 to 60 characters of the vocabulary."""
    return [
        "".join(HAN[(index * 7 + step * (1 + index % 5)) % len(HAN)] for step in range(1 + index % 60))
        + HAN[index % 24]
        + HAN[index // 24]
        for index in range(300)
    ]


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, wordpiece: Path, documents: list[str]) -> Path:
    """Many small blocks in several shards: block and shard sizes are shrunk for it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "text.txt").write_text("\n".join(documents), encoding="utf-8")
    state = {
        "sources": [{"name": "tiny", "format": "lines", "inputs": [str(folder / "text.txt")]}],
        "tokenizer": str(wordpiece),
        "output": str(folder / "corpus"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corpus.shards.block.TARGET_BYTES", 500)
        patch.setattr("corpus.shards.shard.MAX_SHARD_BYTES", 1800)
        build_corpus(BuildConfig.model_validate(state, strict=False))
    return folder / "corpus"
