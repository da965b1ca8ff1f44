"""Saving a tokenizer for every reader of such folders, and checking that each of them reads what was saved.

transformers 4 and 5 read tokenizer.json, transformers 4's slow BertTokenizer and most other programs read vocab.txt.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from corpus.vocabulary.pieces import pieces_by_id, pieces_of, placeholders
from corpus.vocabulary.special_tokens import special_token_ids
from corpus.vocabulary.vocab_file import read_vocab_file, write_vocab_file

_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust ends the message of a failed call

# For checks and fingerprints: scripts, widths, case, digits, marks, spaces, an emoji sequence, a Han character beyond
# the basic plane.
PROBE = (
    "知识蒸馏：用２０２４年的大模型，教小模型。“引号”——破折号……ＡＢＣ ｘｙｚ",
    "Distilling Café naïve HELLO  world's 3.14159 1,000,000 foo_bar@example.com",
    "㈱ ① ﬁ ½ é e\u0301 ｶﾞ 한국어 русский العربية 👩‍👩‍👧 𠮷野家 龘\n第二行\t制表",
)


def save_tokenizer(tokenizer: Any, folder: Path, max_tokens: int | None = None) -> None:
    """Save a tokenizer so that transformers 4 loads it too: version 5 renamed two settings, but reads the old names.

    Ids without a piece get placeholders, so that line i of vocab.txt is piece i and the number of pieces that of ids.

    Args:
        max_tokens: positions of the model in the same folder; model_max_length is at most this.

    Raises:
        ValueError: if one of the written files gives other ids than the tokenizer.
        OSError: if they cannot be written.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the Rust library raises this alone, for a full disk too
        if number := _OS_ERROR.search(str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        raise
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"]
    if values["tokenizer_class"] == "TokenizersBackend" or kind == "BPE":  # whose families' classes split as they like
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    if max_tokens is not None:
        values["model_max_length"] = min(max_tokens, tokenizer.model_max_length)
    for key in ("is_local", "local_files_only"):  # how it was loaded here
        values.pop(key, None)
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
    _write_vocabulary(tokenizer, folder)
    check_saved(tokenizer, folder)


def _write_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Write vocab.txt of a WordPiece tokenizer, and placeholders into tokenizer.json.

    Only BERT's way of splitting at punctuation is sure never to find a placeholder in text; else a vocabulary with ids
    without a piece is left as it is, and has no vocab.txt.
    """
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if state["model"]["type"] != "WordPiece":
        return
    missing = placeholders(tokenizer)
    if missing or "" in state["model"]["vocab"]:
        if (state["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer":
            (folder / "vocab.txt").unlink(missing_ok=True)
            return
        pieces = {piece: index for piece, index in state["model"]["vocab"].items() if piece} | missing
        state["model"]["vocab"] = dict(sorted(pieces.items(), key=lambda item: item[1]))
        (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    write_vocab_file(pieces_by_id(tokenizer), folder / "vocab.txt")


def check_saved(tokenizer: Any, folder: Path) -> None:
    """Compare a folder with the tokenizer that was saved there: the ids of its pieces, and of probe texts.

    Raise ValueError naming the file that gives other ids, as it is read by transformers' fast and slow tokenizers, by
    the library tokenizers, and line by line, or if AutoTokenizer finds other special tokens. Warn if the slow one, of
    which Python's version of Unicode is a part, splits a text otherwise.
    """
    wanted = pieces_of(tokenizer)
    backend = tokenizer.backend_tokenizer
    fast = AutoTokenizer.from_pretrained(folder)
    _compare(folder / "tokenizer.json (AutoTokenizer)", pieces_of(fast), wanted, fast.backend_tokenizer, backend)
    if (found := special_token_ids(fast)) != (before := special_token_ids(tokenizer)):
        raise ValueError(
            f"{folder}: AutoTokenizer finds the special tokens {found} there instead of {before}; do not use this "
            "folder"
        )
    if type(fast) is not PreTrainedTokenizerFast:  # which is the file itself
        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        _compare(folder / "tokenizer.json", pieces_of(plain), wanted, plain, backend)
    if not (folder / "vocab.txt").is_file():
        return
    lines = read_vocab_file(folder / "vocab.txt")
    _compare(folder / "vocab.txt", {piece: index for index, piece in enumerate(lines)}, wanted)
    if type(tokenizer).__name__ == "BertTokenizer":  # others have no slow form
        slow = BertTokenizerLegacy.from_pretrained(folder)
        _compare(folder / "vocab.txt (slow tokenizer)", slow.get_vocab(), wanted)
        if differ := [text for text in PROBE if _encode(slow, text) != _encode(backend, text)]:
            warnings.warn(
                f"{folder}: transformers' slow tokenizer (use_fast=False) splits {differ[0][:20]!r} otherwise than the "
                "one that this model is trained with; use the fast one",
                stacklevel=3,
            )


def _compare(
    file: Path, found: Mapping[str, int], wanted: Mapping[str, int], reader: Any = None, backend: Any = None
) -> None:
    """Raise ValueError if a reader of a file has other ids for the pieces `wanted`, or for probe texts."""
    if wrong := [piece for piece, index in wanted.items() if found.get(piece) != index]:
        piece = wrong[0]
        raise ValueError(
            f"{file}: {len(wrong):,} pieces have other ids than in the tokenizer that was saved, such as {piece!r}: "
            f"{found.get(piece)} instead of {wanted[piece]}; do not use this folder"
        )
    if reader is None:
        return
    for text in PROBE:
        if (ids := _encode(reader, text)) != (expected := _encode(backend, text)):
            raise ValueError(
                f"{file}: gives other ids than the tokenizer that was saved for {text[:20]!r}: {ids[:8]} instead of "
                f"{expected[:8]}; do not use this folder"
            )


def _encode(reader: Any, text: str) -> list[int]:
    encoding = reader.encode(text, add_special_tokens=False)
    return encoding if isinstance(encoding, list) else encoding.ids
