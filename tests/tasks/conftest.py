"""Tokenizers of the two kinds that encoders have, made here, and the shared teacher's where it is."""

import json
import unicodedata
from pathlib import Path

import pytest
import zstandard
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast

from tasks.config import TaskConfig
from tests.pretrain.tiny import teacher_model

SHARED = Path(__file__).parents[2] / "../shared/data"
CHARACTERS = [chr(code) for code in (*range(0x21, 0x7F), *range(0x4E00, 0x9FA6))] + list(
    "，。、：；？！“”《》（）「」·…—ａ"
)


def build_wordpiece() -> BertTokenizer:
    """As BERT's: lower case, a token a Chinese character, words of letters and digits in pieces."""
    characters = [character for character in CHARACTERS if character == character.lower()]
    letters = [f"##{character}" for character in characters if character.isascii() and character.isalnum()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *letters, "hello", "world", "##ing", "20"]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def build_unigram() -> PreTrainedTokenizerFast:
    """As XLM-R's: NFKC, a marked space before every word, pieces of several characters."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(unicodedata.normalize("NFKC", character), -9.0) for character in CHARACTERS]
    pieces += [(piece, -8.0) for piece in ("零度", "结冰", "▁Hello", "▁World", "▁a", "20", "...")]
    backend = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=3, byte_fallback=False))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return fast(backend)


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **names)


def read_teacher() -> PreTrainedTokenizerFast:
    packed = SHARED / "teacher/tokenizer.json.zst"
    if not packed.is_file():
        pytest.skip("shared data is not there: ../shared/data/teacher")
    with packed.open("rb") as file:
        return fast(Tokenizer.from_str(zstandard.ZstdDecompressor().stream_reader(file).read().decode()))


BUILDERS = {"wordpiece": build_wordpiece, "unigram": build_unigram, "teacher": read_teacher}


@pytest.fixture(scope="session", params=BUILDERS)
def tokenizer(request):
    """Each of the three in turn."""
    return BUILDERS[request.param]()


@pytest.fixture(scope="session")
def wordpiece():
    return build_wordpiece()


@pytest.fixture(scope="session")
def general(tmp_path_factory, wordpiece):
    """A random encoder with its tokenizer, as general distillation publishes students."""
    folder = tmp_path_factory.mktemp("general")
    teacher_model(vocab_size=len(wordpiece)).save_pretrained(folder)
    wordpiece.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def first_character(tmp_path_factory):
    """A task in which a text's class is its first character."""
    path = tmp_path_factory.mktemp("task") / "data.json"
    records = [{"sentence": first + rest, "label": first} for first in "天地" for rest in "玄黄宇宙洪荒日月" * 2]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return TaskConfig(name="t", kind="sentence", train=str(path), dev=str(path), row_tokens=16)
