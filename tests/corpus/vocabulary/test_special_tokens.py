"""What tokenizers of decoders and others put around a text, and the padding that rows need."""

import json
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from corpus.rows.masking import Masker, MaskingSettings
from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from corpus.vocabulary.saved import save_tokenizer
from corpus.vocabulary.special_tokens import frame, settle_special_tokens, special_token_ids
from corpus.vocabulary.tokenizer import TextEncoder, load_tokenizer
from tests.corpus.tiny_bpe import END, PAD, TEXTS, save_byte_level, save_falling_back


def build(tokenizer, folder):
    (folder / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    source = {"name": "tiny", "format": "lines", "inputs": [str(folder / "text.txt")]}
    state = {"sources": [source], "tokenizer": str(tokenizer), "output": str(folder / "corpus")}
    build_corpus(BuildConfig.model_validate(state, strict=False))
    return load_manifest(folder / "corpus")


@pytest.mark.parametrize(("before", "after"), [("", END), (END, ""), ("", "")])
def test_the_frame_is_what_the_tokenizer_adds(tmp_path, before, after):
    tokenizer = AutoTokenizer.from_pretrained(save_byte_level(tmp_path, before, after))
    end = tokenizer.convert_tokens_to_ids(END)
    assert frame(tokenizer) == (end if before else None, end if after else None)


def test_padding_that_ends_a_text_is_replaced(tmp_path):
    message = r"pads with <\|endoftext\|>, which frames a text too; padding is <\|vision_pad\|> here"
    with pytest.warns(UserWarning, match=message):
        tokenizer = load_tokenizer(str(save_byte_level(tmp_path / "a")))
    assert tokenizer.pad_token == PAD
    (tmp_path / "b").mkdir()
    save_tokenizer(tokenizer, tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = load_tokenizer(str(tmp_path / "b"))
    assert special_token_ids(saved) == special_token_ids(tokenizer) and saved("天")["input_ids"][-1] == saved.vocab[END]


def test_a_tokenizer_without_padding_gets_one(tmp_path):
    folder = save_byte_level(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match=r"has no pad_token; padding is <\|vision_pad\|> here"):
        assert load_tokenizer(str(folder)).pad_token == PAD


def test_two_tokens_on_a_side_are_refused(tmp_path):
    folder = save_byte_level(tmp_path)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [(token, backend.token_to_id(token)) for token in ("<|im_start|>", END)]
    backend.post_processor = processors.TemplateProcessing(single=f"<|im_start|> {END} $A", special_tokens=ends)
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"adds 2 tokens before a text \(<\|im_start\|> <\|endoftext\|>\), but rows"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(("key", "where"), [("bos", "before"), ("eos", "after")])
def test_settings_that_have_no_effect_are_told(tmp_path, key, where):
    folder = save_byte_level(tmp_path, "", "", pad_token=PAD, bos_token=END)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{k: settings[k] for k in ("eos_token", "bos_token", "pad_token")}
    )
    tokenizer.init_kwargs[f"add_{key}_token"] = True
    with pytest.warns(UserWarning, match=f"its settings say add_{key}_token, but .* puts nothing {where} a text"):
        settle_special_tokens("t", tokenizer, json.loads(backend.to_str()))


def test_a_decoders_corpus_has_rows_as_the_tokenizer_frames_texts(tmp_path):
    with pytest.warns(UserWarning, match="pads with"):
        manifest = build(save_byte_level(tmp_path / "t"), tmp_path)
        tokenizer = load_tokenizer(str(tmp_path / "t"))
    record = manifest.tokenizer
    assert (record.cls_token_id, record.mask_token_id, record.unk_token_id) == (None, None, None)
    assert record.sep_token_id == tokenizer.vocab[END] and record.pad_token_id == tokenizer.vocab[PAD]
    stream = RowStream(manifest, 128, seed=1, kind="texts")
    rows = {tuple(row[row != record.pad_token_id].tolist()) for row in stream.rows(np.arange(3))}
    assert rows == {tuple(tokenizer(text)["input_ids"]) for text in TEXTS}
    apart = RowStream(manifest, 256, seed=1, documents_apart=True).batches(0, 1)
    batch = next(apart)
    apart.close()
    assert batch["document_ids"].max() == 2
    assert batch["position_ids"][0][batch["document_ids"][0] == 1].tolist() == list(
        range(int((batch["document_ids"] == 1).sum()))
    )
    with pytest.raises(ValueError, match=r"masking needs a mask token, and the tokenizer .* has none"):
        Masker(manifest, MaskingSettings(), 1)
    with pytest.raises(ValueError, match="rows of pairs need a token before a text"):
        RowStream(manifest, 128, seed=1, kind="pairs")


def test_no_special_id_comes_from_text(tmp_path):
    tokenizer = load_tokenizer(str(save_falling_back(tmp_path)))
    (ids,) = TextEncoder(tokenizer).encode(["<bos>天<mask>地</s><eos><unused0>"])
    assert not {tokenizer.vocab[token] for token in ("<bos>", "<eos>", "<mask>", "<unused0>")} & set(ids.tolist())
    assert frame(tokenizer) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_bert_student_with_such_a_tokenizer_is_read_with_the_same_tokens(tmp_path):
    with pytest.warns(UserWarning, match="pads with"):
        tokenizer = load_tokenizer(str(save_byte_level(tmp_path / "t")))
    BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id).save_pretrained(tmp_path / "s")
    save_tokenizer(tokenizer, tmp_path / "s", 512)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "s")
    assert (
        json.loads((tmp_path / "s/tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    )
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_tokenizer_of_python_code_is_refused(tmp_path, monkeypatch):
    class Split:
        def pre_tokenize(self, text):
            pass

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Split())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "b": 2})))
    tokenizer._tokenizer = backend
    monkeypatch.setattr("corpus.vocabulary.tokenizer.AutoTokenizer.from_pretrained", lambda *_, **__: tokenizer)
    with pytest.raises(ValueError, match=r"splits text by Python code, which no tokenizer\.json can hold"):
        load_tokenizer("roformer")
