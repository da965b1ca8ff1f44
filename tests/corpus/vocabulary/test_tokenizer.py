import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from tokenizers.normalizers import BertNormalizer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from corpus.vocabulary.saved import save_tokenizer
from corpus.vocabulary.tokenizer import (
    TextEncoder,
    load_tokenizer,
    special_token_ids,
    tokenizer_fingerprint,
)


def edit(folder: Path, target: Path, change) -> Path:
    """A copy of a tokenizer folder whose tokenizer.json was changed."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    state = json.loads((target / "tokenizer.json").read_text())
    change(state)
    (target / "tokenizer.json").write_text(json.dumps(state))
    return target


@pytest.fixture(params=["wordpiece", "unigram"])
def tokenizer(request):
    return load_tokenizer(str(request.getfixturevalue(request.param)))


@settings(max_examples=50)
@given(
    st.lists(
        st.sampled_from(["[MASK]", "[CLS]", "<s>", "</s>", "<mask>", "<pad>", " ", "天", "地", "s"]),
        max_size=12,
    )
)
def test_no_special_id_comes_from_text(wordpiece, unigram, pieces):
    for folder in (wordpiece, unigram):
        tokenizer = load_tokenizer(str(folder))
        special = {index for name, index in special_token_ids(tokenizer).items() if name != "unk"}
        (ids,) = TextEncoder(tokenizer).encode(["".join(pieces)])
        assert not special & set(ids.tolist())


def test_plain_encoding_would_give_special_ids(unigram):
    """The problem that the encoder solves; without it the test above could not fail."""
    tokenizer = load_tokenizer(str(unigram))
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    assert tokenizer.cls_token_id in backend.encode("天<s>地", add_special_tokens=False).ids


def test_normalised_special_tokens_never_come_from_text_either(wordpiece, tmp_path):
    """Their normaliser also removes the NUL that keeps them out of text."""

    def clean(state):
        state["normalizer"] = json.loads(BertNormalizer(lowercase=False).__getstate__())
        for token in state["added_tokens"]:
            token["normalized"] = True

    tokenizer = load_tokenizer(str(edit(wordpiece, tmp_path / "t", clean)))
    (ids,) = TextEncoder(tokenizer).encode(["天[MASK]地 [SEP]"])
    assert not {tokenizer.mask_token_id, tokenizer.sep_token_id} & set(ids.tolist())


def test_ordinary_text_encodes_as_the_tokenizer_does(tokenizer):
    texts = ["天地玄黄 宇宙 HELLO", "洪荒龘", "日\n月", "天" * 600]
    for text, ids in zip(texts, TextEncoder(tokenizer).encode(texts), strict=True):
        assert ids.dtype == np.uint16
        assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_truncation_and_padding_of_the_folder_are_ignored(wordpiece, tmp_path):
    def limit(state):
        state["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        state["padding"] = {
            "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        }  # fmt: skip

    tokenizer = load_tokenizer(str(edit(wordpiece, tmp_path / "t", limit)))
    assert [len(ids) for ids in TextEncoder(tokenizer).encode(["天" * 20, "天"])] == [20, 1]


def test_large_vocabularies_take_four_bytes(tmp_path):
    vocab = {f"w{index}": index for index in range(70_000)} | {"[UNK]": 70_000, "[CLS]": 70_001}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]")
    (ids,) = TextEncoder(tokenizer).encode(["w69999"])
    assert ids.dtype == np.uint32 and ids.tolist() == [69_999]


def test_fingerprint_is_of_behaviour(wordpiece, unigram, tmp_path):
    def swap(state):
        vocab = state["model"]["vocab"]
        vocab["天"], vocab["地"] = vocab["地"], vocab["天"]

    def add(state):
        state["model"]["vocab"]["more"] = len(state["model"]["vocab"])

    prints = [tokenizer_fingerprint(load_tokenizer(str(wordpiece)))]
    same = edit(wordpiece, tmp_path / "same", lambda state: None)
    assert tokenizer_fingerprint(load_tokenizer(str(same))) == prints[0]
    changes = {"swap": swap, "add": add, "case": lambda state: state.update(normalizer=None)}
    for name, change in changes.items():
        prints.append(tokenizer_fingerprint(load_tokenizer(str(edit(wordpiece, tmp_path / name, change)))))
    prints.append(tokenizer_fingerprint(load_tokenizer(str(unigram))))
    assert len(set(prints)) == len(prints)


def test_folders_without_a_tokenizer_are_named(tmp_path):
    for name in (str(tmp_path / "missing"), "./missing", "a/b/c"):
        with pytest.raises(ValueError, match=f"^tokenizer: there is no folder '{name}'$"):
            load_tokenizer(name)
    for name in (str(tmp_path), "nobody/no-such-model"):
        with pytest.raises(ValueError, match="not a folder or hub id that can be loaded"):
            load_tokenizer(name)


def test_a_tokenizer_that_transformers_makes_up_for_a_model_without_one_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"has no vocabulary \(tokenizer\.json, vocab\.txt or"):
        load_tokenizer(str(tmp_path))


def test_slow_tokenizers_are_refused(monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr("corpus.vocabulary.tokenizer.AutoTokenizer.from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(ValueError, match="has no fast version"):
        load_tokenizer("slow")


def test_missing_special_tokens_are_named(wordpiece, tmp_path):
    backend = Tokenizer.from_file(str(wordpiece / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks cls_token, pad_token, which rows need"):
        load_tokenizer(str(tmp_path))


def test_padding_must_be_a_separate_token(wordpiece, tmp_path):
    backend = Tokenizer.from_file(str(wordpiece / "tokenizer.json"))
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pad_token must differ from cls_token, sep_token and unk_token"):
        load_tokenizer(str(tmp_path))


def test_a_generic_tokenizer_is_saved_with_the_names_of_transformers_4(tokenizer, tmp_path):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<e1>", "<e2>"]})
    save_tokenizer(tokenizer, tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert values["additional_special_tokens"] == ["<e1>", "<e2>"] and "extra_special_tokens" not in values
    loaded, text = AutoTokenizer.from_pretrained(tmp_path), "天地<e2>玄黄 hello"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.all_special_ids == tokenizer.all_special_ids
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)


def test_a_familys_own_tokenizer_keeps_its_class(tmp_path):
    vocabulary = {piece: index for index, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "天"])}
    save_tokenizer(BertTokenizer(vocab=vocabulary), tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "BertTokenizer"
    assert AutoTokenizer.from_pretrained(tmp_path)("天")["input_ids"] == [2, 5, 3]
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8").split("\n") == [*vocabulary, ""]  # of transformers 4


def test_model_max_length_is_at_most_the_models_positions(tokenizer, tmp_path):
    for own, positions, least in ((512, 130, 130), (64, 130, 64), (int(1e30), 130, 130)):
        tokenizer.model_max_length = own
        save_tokenizer(tokenizer, tmp_path, positions)
        assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == least
        save_tokenizer(tokenizer, tmp_path)
        assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == own
