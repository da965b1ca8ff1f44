"""Vocabularies whose ids are not all pieces: counted, filled, and read alike by everything that reads such folders."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from corpus.shards.manifest import build_tokenizer_record
from corpus.vocabulary.pieces import ids_without_piece, num_ids, pieces_by_id, warn_of_vocabulary
from corpus.vocabulary.saved import PROBE, check_saved, save_tokenizer
from corpus.vocabulary.tokenizer import TextEncoder, load_tokenizer, tokenizer_fingerprint
from corpus.vocabulary.trimming import count_pieces, kept_ids, trim_tokenizer
from corpus.vocabulary.vocab_file import read_vocab_file

SPECIAL = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = "天地，玄黄！a1 天"


def bert_folder(folder: Path, lines: list[str], end: str = "\n") -> Path:
    """A folder as Google's models are: vocab.txt, and a config.json that tells the class of the tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("\n".join(lines) + end, encoding="utf-8", newline="")
    return folder


# The lines, the ids without a piece, and what a warning says of the lines
VOCABULARIES = {
    "doubled": ([*SPECIAL, "天", "，", "地", "，", "a1", "黄"], [7], "'，' is 7 and 9"),
    "tripled": ([*SPECIAL, "天", "天", "地", "天", "黄"], [6, 7], "'天' is 6 and 7 and 9"),
    "doubled special": (["[PAD]", *SPECIAL, "天", "地"], [0], "'[PAD]' is 0 and 1"),
    "empty": ([*SPECIAL, "天", "", "地", "", "黄"], [7, 9], "2 empty lines"),
    "empty at the end": ([*SPECIAL, "天", "地", "", "", ""], [], ""),
    "white space": ([*SPECIAL, "天", "天\u3000", "地"], [6], "'天' is 6 and 7"),
}


@pytest.fixture(params=VOCABULARIES)
def faulty(request, tmp_path):
    lines, missing, said = VOCABULARIES[request.param]
    folder = bert_folder(tmp_path / "given", lines)
    return folder, load_tokenizer(str(folder)), missing, said


def test_ids_are_counted_to_the_highest(faulty):
    _, tokenizer, missing, _ = faulty
    last = max(index for piece, index in tokenizer.get_vocab().items() if piece)
    assert num_ids(tokenizer) == TextEncoder(tokenizer).num_ids == len(pieces_by_id(tokenizer)) == last + 1
    assert ids_without_piece(tokenizer) == missing
    record = build_tokenizer_record("t", tokenizer)
    assert (record.vocab_size, record.ids_without_piece) == (last + 1, missing)


def test_every_reader_of_a_saved_folder_finds_the_same_ids(faulty, tmp_path):
    _, tokenizer, missing, _ = faulty
    save_tokenizer(tokenizer, tmp_path / "saved")
    lines = read_vocab_file(tmp_path / "saved" / "vocab.txt")
    fast, slow = (
        AutoTokenizer.from_pretrained(tmp_path / "saved"),
        BertTokenizerLegacy.from_pretrained(tmp_path / "saved"),
    )
    assert [lines[index] for index in missing] == [f"[unused{number + 2}]" for number in range(len(missing))]
    assert lines == fast.convert_ids_to_tokens(range(len(lines))) == slow.convert_ids_to_tokens(range(len(lines)))
    assert len(fast) == len(slow) == len(lines) == num_ids(tokenizer)
    for text in (TEXT, *PROBE):
        assert fast(text)["input_ids"] == slow(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path / "saved"))) == tokenizer_fingerprint(tokenizer)


def test_doubled_and_empty_lines_are_named_when_a_corpus_is_built(faulty):
    folder, tokenizer, missing, said = faulty
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_vocabulary(str(folder), tokenizer)
    assert len(caught) == bool(missing)
    if missing:
        total, first = num_ids(tokenizer), missing[0]
        assert f"{len(missing)} of {total} ids stand for no piece, such as {first}" in str(caught[0].message)
        assert said in str(caught[0].message)


def test_such_a_vocabulary_is_counted_and_trimmed(faulty):
    _, tokenizer, missing, _ = faulty
    backend = tokenizer.backend_tokenizer
    counts = count_pieces(backend, [TEXT])
    assert len(counts) == num_ids(tokenizer) and not counts[missing].any()
    kept = kept_ids(backend, counts)
    assert not set(kept) & set(missing)
    small = trim_tokenizer(backend, kept)
    assert small.encode(TEXT).tokens == backend.encode(TEXT).tokens
    assert sorted(small.get_vocab().values()) == list(range(len(kept)))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["\ufeff[PAD]", *SPECIAL[1:]], r"lacks \[PAD\], which gets the id 8"),
        (SPECIAL[:-1], r"lacks \[MASK\], which gets the id 7 behind"),
    ],
)
def test_special_tokens_that_a_damaged_file_lacks_are_named(tmp_path, lines, said):
    folder = bert_folder(tmp_path / "given", [*lines, "天", "地"])
    with pytest.warns(UserWarning, match=said):
        warn_of_vocabulary(str(folder), load_tokenizer(str(folder)))


@pytest.mark.parametrize("pieces", [["The", "##ing"], [chr(letter) for letter in range(65, 91)]])
def test_a_cased_vocabulary_that_is_lowercased_by_default_is_named(tmp_path, pieces):
    folder = bert_folder(tmp_path / "given", [*SPECIAL, "天", "地", *pieces])
    with pytest.warns(UserWarning, match=r"lowercases text, but \d+ of its pieces have capitals.*do_lower_case.*false"):
        warn_of_vocabulary(str(folder), load_tokenizer(str(folder)))
    for said in (True, False):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": said}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_vocabulary(str(folder), load_tokenizer(str(folder)))


def test_a_vocabulary_without_an_unknown_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"its vocabulary lacks \[UNK\]; is its vocab.txt whole"):
        load_tokenizer(str(bert_folder(tmp_path / "given", ["[PAD]", "[CLS]", "[SEP]", "天", "地"])))


def test_a_class_that_ignores_tokenizer_json_is_refused(tmp_path):
    """BERT's own class lowercases by default, whatever a tokenizer.json says that stands alone."""
    folder = bert_folder(tmp_path / "given", [*SPECIAL, "天", *"abcdefghijklmnopqrstuvwxyz"])
    AutoTokenizer.from_pretrained(folder, do_lower_case=False).save_pretrained(folder)
    load_tokenizer(str(folder))
    (folder / "tokenizer_config.json").unlink()
    said = r"reads it as BertTokenizer, which splits '.*' otherwise than its tokenizer.json .*PreTrained"
    with pytest.raises(ValueError, match=said):
        load_tokenizer(str(folder))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.warns(UserWarning, match=said):
        load_tokenizer(str(folder))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(str(folder)).tokenize("天 A") == ["天", "[UNK]"]


def test_a_slow_tokenizer_that_splits_otherwise_is_warned_of(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(str(bert_folder(tmp_path / "given", [*SPECIAL, "天", "地"])))
    monkeypatch.setattr(BertTokenizerLegacy, "_tokenize", lambda self, text, **_: ["天"])
    with pytest.warns(UserWarning, match=r"slow tokenizer \(use_fast=False\) splits '知识.* otherwise than"):
        save_tokenizer(tokenizer, tmp_path / "saved")


@pytest.mark.parametrize("kind", ["tokenizer.json", "added token"])
def test_holes_of_other_origin_are_filled_too(tmp_path, kind):
    """A piece taken out of tokenizer.json, and a token added far behind the vocabulary."""
    save_tokenizer(load_tokenizer(str(bert_folder(tmp_path / "a", [*SPECIAL, "天", "地", "，"]))), tmp_path / "b")
    state = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    if kind == "tokenizer.json":
        del state["model"]["vocab"]["天"]
    else:
        state["model"]["vocab"]["黄"] = 12
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = load_tokenizer(str(tmp_path / "b"))
    assert ids_without_piece(tokenizer) == ([6] if kind == "tokenizer.json" else [9, 10, 11])
    save_tokenizer(tokenizer, tmp_path / "c")
    assert len(read_vocab_file(tmp_path / "c" / "vocab.txt")) == len(AutoTokenizer.from_pretrained(tmp_path / "c"))


def test_an_id_with_two_pieces_is_refused(tmp_path):
    """[MASK] is not in the file: the library adds it as the number of pieces, which is the last piece's id."""
    lines = [*SPECIAL[:-1], "天", "天", "黄"]
    with pytest.raises(
        ValueError, match=r"tokenizer '.*': '\[MASK\]' and '黄' both have id 7: the vocabulary lacks one"
    ):
        load_tokenizer(str(bert_folder(tmp_path / "given", lines)))


def test_a_tokenizer_that_might_find_a_placeholder_in_text_gets_none(wordpiece, tmp_path):
    """It splits at white space alone; its vocabulary is saved with its hole, and so without vocab.txt."""
    backend = Tokenizer.from_file(str(wordpiece / "tokenizer.json"))
    state = json.loads(backend.to_str())
    del state["model"]["vocab"]["宙"]
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    holed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **names)
    save_tokenizer(holed, tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    assert "[unused1]" not in AutoTokenizer.from_pretrained(tmp_path).get_vocab()


def test_pieces_that_cannot_be_lines_are_not_written_as_lines(tmp_path):
    tokenizer = load_tokenizer(str(bert_folder(tmp_path / "given", [*SPECIAL, "天", "地"])))
    tokenizer.add_tokens(["a\nb"])
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: swap_lines(folder), r"vocab\.txt: 2 pieces have other ids .* such as '天': 7 instead of 6"),
        (lambda folder: lowercase(folder, False), r"AutoTokenizer\): gives other ids .*'Distilling Café"),
        (lambda folder: drop(folder), r"tokenizer\.json .*: 1 pieces have other ids .*'地': None instead of 7"),
    ],
)
def test_a_saved_file_that_gives_other_ids_is_refused(tmp_path, damage, said):
    latin = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    tokenizer = load_tokenizer(str(bert_folder(tmp_path / "given", [*SPECIAL, "天", "地", *latin])))
    save_tokenizer(tokenizer, tmp_path / "saved")
    check_saved(tokenizer, tmp_path / "saved")
    damage(tmp_path / "saved")
    with pytest.raises(ValueError, match=said):
        check_saved(tokenizer, tmp_path / "saved")


def swap_lines(folder: Path) -> None:
    lines = read_vocab_file(folder / "vocab.txt")
    lines[6], lines[7] = lines[7], lines[6]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lowercase(folder: Path, value: bool) -> None:
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(values | {"do_lower_case": value}))


def drop(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    del state["model"]["vocab"]["地"]
    (folder / "tokenizer.json").write_text(json.dumps(state))


def test_more_than_65536_ids_take_four_bytes_however_few_pieces_there_are(tmp_path):
    pieces = [f"a{index}" for index in range(65_536)]
    tokenizer = load_tokenizer(str(bert_folder(tmp_path / "given", [*SPECIAL, "天", "天", *pieces[:-7]])))
    assert len(tokenizer) <= 65_536 < num_ids(tokenizer) and TextEncoder(tokenizer).dtype == np.uint32


def test_a_full_disk_is_told_as_such(tmp_path):
    """The library's own error says so in its text alone; any other is left as it is."""

    class Tokenizer:
        message = "No space left on device (os error 28)"

        def save_pretrained(self, folder):
            raise Exception(self.message)

    with pytest.raises(OSError, match="No space left on device") as caught:
        save_tokenizer(Tokenizer(), tmp_path)
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path)
    Tokenizer.message = "something else"
    with pytest.raises(Exception, match="something else"):
        save_tokenizer(Tokenizer(), tmp_path)
