import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GenerationConfig,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.utils import logging as transformers_logging

from corpus.vocabulary.training import BERT_SPECIAL, build_unigram, build_wordpiece, save_backend
from launch.trim_vocabulary import check_same_states, load_model, main, trim_model
from pretrain.models.pooling import recorded_pooling
from tests.corpus.tiny_bpe import END, PAD, save_byte_level, save_falling_back

HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WORDS = ["lower", "##est", "newest", "low", "l", "##o"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A masked-language model, so with output embeddings and their bias, whose special tokens are not the first."""
    folder = tmp_path_factory.mktemp("bert")
    pieces = ["newer", *BERT_SPECIAL[:1], *WORDS, *BERT_SPECIAL[1:], *HAN]
    save_backend(build_wordpiece(pieces, lowercase=True), 40, folder)
    config = BertConfig(vocab_size=len(pieces) + 3, pad_token_id=1, max_position_embeddings=40, **SIZES)
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("xlmr")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *HAN, "天地", "lower", "地玄", "<mask>"]
    # 天地 wins over 地玄, and neither has the lowest score, which would keep it
    scores = {"地玄": -11.0, "天": -12.0}
    save_backend(build_unigram(pieces, [scores.get(piece, -10.0) for piece in pieces]), 40, folder)
    config = XLMRobertaConfig(vocab_size=len(pieces), pad_token_id=1, max_position_embeddings=42, **SIZES)
    torch.manual_seed(0)
    XLMRobertaModel(config).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    """A decoder as Qwen3-Embedding: tied embeddings in shards and bfloat16, more rows than pieces, ids of its own."""
    folder = save_byte_level(tmp_path_factory.mktemp("qwen"))
    end, start = (AutoTokenizer.from_pretrained(folder).vocab[token] for token in (END, "<|im_start|>"))
    ids = {"bos_token_id": end, "eos_token_id": start, "tie_word_embeddings": True}
    config = Qwen3Config(vocab_size=400, head_dim=8, num_key_value_heads=1, **ids, **SIZES)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=[start, end], pad_token_id=end)
    model.save_pretrained(folder, max_shard_size="10KB")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_lasttoken": true}')
    (folder / "modules.json").write_text("[]")
    return folder


@pytest.fixture(scope="module")
def modern(tmp_path_factory) -> Path:
    """ModernBERT with mmBERT's kind of tokenizer; its head has a bias."""
    folder = save_falling_back(tmp_path_factory.mktemp("modern"))
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1}
    torch.manual_seed(0)
    ModernBertForMaskedLM(ModernBertConfig(vocab_size=300, **ids, **SIZES)).save_pretrained(folder)
    return folder


def run(model: Path, tmp_path: Path, text: str) -> int:
    (tmp_path / "text").write_text(text, encoding="utf-8")
    arguments = ["--model", str(model), "--input", str(tmp_path / "text"), "--format", "lines"]
    return main([*arguments, "--output", str(tmp_path / "out")])


def test_a_model_with_a_head_gives_the_same_logits_for_kept_pieces(bert, tmp_path, capsys):
    assert run(bert, tmp_path, "天地 lower\n玄黄 lowest") == 0
    assert "vocabulary 36 -> 34" in capsys.readouterr().out
    old, new = AutoTokenizer.from_pretrained(bert), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert set(old.get_vocab()) - set(new.get_vocab()) == {"newer", "newest"}
    before, after = BertForMaskedLM.from_pretrained(bert), BertForMaskedLM.from_pretrained(tmp_path / "out")
    assert after.config.vocab_size == 34 and after.config.pad_token_id == new.pad_token_id == 0
    text = "天地 lower 龘 lowest"
    ids = new.convert_tokens_to_ids(old.convert_ids_to_tokens(old(text)["input_ids"]))
    assert new(text)["input_ids"] == ids
    same = [old.convert_tokens_to_ids(new.convert_ids_to_tokens(index)) for index in range(34)]
    logits = [m.eval()(torch.tensor([t(text)["input_ids"]])).logits for m, t in ((before, old), (after, new))]
    torch.testing.assert_close(logits[0][..., same], logits[1], rtol=0, atol=1e-6)


def test_a_unigram_teacher_keeps_precision_and_positions(xlmr, tmp_path):
    assert run(xlmr, tmp_path, "天地玄黄") == 0
    old, new = AutoTokenizer.from_pretrained(xlmr), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "lower" not in new.get_vocab() and "地玄" not in new.get_vocab() and "天地" in new.get_vocab()
    after = AutoModel.from_pretrained(tmp_path / "out", dtype="auto")
    assert after.dtype == torch.float16 and after.config.vocab_size == len(new) and new.mask_token_id == len(new) - 1
    assert old.tokenize("天地玄") == new.tokenize("天地玄") and new.model_max_length == 40


def test_a_decoder_of_bytes_keeps_its_ids_precision_and_pooling(qwen, tmp_path, capsys):
    assert len(list(qwen.glob("model-*.safetensors"))) > 1
    assert run(qwen, tmp_path, "天地玄黄，大模型") == 0
    assert "pads with <|endoftext|>, which frames a text too" in capsys.readouterr().err
    old, new = AutoTokenizer.from_pretrained(qwen), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(new) < len(old) and new.pad_token == PAD
    text = "天地玄黄，大模型 龘 works"
    assert (
        old.decode(old(text)["input_ids"]) == new.decode(new(text)["input_ids"])
        and new(text)["input_ids"][-1] == new.vocab[END]
    )
    after = Qwen3ForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    end, start = new.vocab[END], new.vocab["<|im_start|>"]
    assert after.dtype == torch.bfloat16 and after.config.vocab_size == len(new)
    assert (after.config.bos_token_id, after.config.eos_token_id) == (end, start)
    assert after.config.pad_token_id == new.pad_token_id  # by which a classifier finds the last token of a text
    assert (after.generation_config.eos_token_id, after.generation_config.pad_token_id) == ([start, end], end)
    assert after.lm_head.weight.data_ptr() == after.model.embed_tokens.weight.data_ptr()
    assert recorded_pooling(tmp_path / "out") == "last" and (tmp_path / "out/modules.json").is_file()


def test_a_vocabulary_that_falls_back_to_bytes_keeps_the_heads_bias(modern, tmp_path):
    assert run(modern, tmp_path, "天地玄黄 abcd") == 0
    old, new = AutoTokenizer.from_pretrained(modern), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert not {"abc", "<unused0>"} & set(new.get_vocab()) and "abcd" in new.get_vocab()
    before, after = (ModernBertForMaskedLM.from_pretrained(one).eval() for one in (modern, tmp_path / "out"))
    assert (after.config.pad_token_id, after.config.cls_token_id) == (new.pad_token_id, new.bos_token_id)
    same = [old.vocab[new.convert_ids_to_tokens(index)] for index in range(len(new))]
    logits = [m(torch.tensor([t("天地 abcd")["input_ids"]])).logits for m, t in ((before, old), (after, new))]
    torch.testing.assert_close(logits[0][..., same], logits[1], rtol=0, atol=1e-6)


def test_a_weight_with_a_row_for_each_piece_that_is_not_known_is_refused(bert):
    model, _ = load_model(str(bert))

    class Counting(BertForMaskedLM):
        def __init__(self, config):
            super().__init__(config)
            self.counts = torch.nn.Parameter(torch.zeros(config.vocab_size))

    with pytest.raises(ValueError, match="Counting: counts depends on the vocabulary in a way that is not known here"):
        trim_model(Counting(model.config), np.arange(30))


def test_a_corpus_and_its_text_give_the_same_model(teacher_folder, corpus_folder, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert main(["--model", str(teacher_folder), "--corpus", str(corpus_folder), *output]) == 0
    # The teacher of the tests has all single characters; only hello does not occur
    assert "vocabulary 56 -> 55" in capsys.readouterr().out
    assert main(["--model", str(teacher_folder), "--corpus", str(corpus_folder), *output]) == 2
    assert "out: already exists" in capsys.readouterr().err


def test_reports_of_transformers_are_not_shown(bert, tmp_path, capfd):
    """A model without its pooler, for which transformers would show a bar and a report of new weights."""
    shutil.copytree(bert, tmp_path / "model")
    config = BertConfig.from_pretrained(bert)
    config.architectures = ["BertModel"]
    config.save_pretrained(tmp_path / "model")
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity_warning()
    assert run(tmp_path / "model", tmp_path, "天地玄黄") == 0
    left = "left out: 5 weights of heads that BertModel has not, such as cls.predictions.bias"
    assert capfd.readouterr().err == f"warning: {left}\n"


def test_missing_weights_are_not_saved(bert, tmp_path):
    model, missing = load_model(str(bert))
    assert type(model) is BertForMaskedLM and not missing
    config = model.config
    config.architectures = ["BertModel"]
    config.save_pretrained(tmp_path)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    assert load_model(str(tmp_path))[1] == {"pooler.dense.weight", "pooler.dense.bias"}


def test_a_damaged_or_incomplete_model_is_refused_in_one_line(bert, tmp_path, capsys):
    folder = shutil.copytree(bert, tmp_path / "model")
    file = folder / "model.safetensors"
    weights = {name: weight.clone() for name, weight in load_file(file).items()}  # not the file under them
    file.write_bytes(file.read_bytes()[:1000])
    assert run(folder, tmp_path, "天地玄黄") == 2
    assert f"error: no model could be loaded from folder '{folder}': " in capsys.readouterr().err
    save_file({name: weight for name, weight in weights.items() if "layer.1.output" not in name}, file)
    assert run(folder, tmp_path, "天地玄黄") == 2
    lost = "4 weights are missing, such as encoder.layer.1.output.LayerNorm.bias"
    assert capsys.readouterr().err == f"error: '{folder}': {lost}\n"
    assert not (tmp_path / "out").exists()


def test_an_unknown_architecture_is_loaded_as_an_encoder(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "model")
    config = BertConfig.from_pretrained(bert)
    config.architectures = ["Trainer"]
    config.save_pretrained(folder)
    assert type(load_model(str(folder))[0]) is BertModel


def test_different_hidden_states_are_refused(bert):
    model, _ = load_model(str(bert))
    kept = np.arange(36)
    small, ids = trim_model(model, kept), torch.tensor([[9, 12, 13]])
    check_same_states(model, small, ids, kept)
    with torch.no_grad():
        small.bert.encoder.layer[1].output.dense.bias[0] += 1
    with pytest.raises(ValueError, match="the trimmed model has different hidden states from layer 2 on, by up to"):
        check_same_states(model, small, ids, kept)


def test_refusals_are_one_line(xlmr, bert, corpus_folder, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert main(["--model", str(xlmr), "--corpus", str(corpus_folder), *output]) == 2
    assert "was built with another tokenizer (" in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "none"), "--corpus", str(corpus_folder), *output]) == 2
    assert f"there is no folder '{tmp_path}/none'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is no folder"):
        load_model(str(tmp_path / "none"))
    assert not (tmp_path / "out").exists()
    assert main(["--model", str(xlmr), "--corpus", str(corpus_folder), "--output", "/proc/x"]) == 2
    assert capsys.readouterr().err == "error: /proc/x: cannot be written: No such file or directory\n"
    for flags, message in {
        (): "give either --corpus or --input",
        ("--corpus", "a", "--input", "b"): "give either --corpus or --input",
        ("--input", "b"): "--input needs --format",
    }.items():
        with pytest.raises(SystemExit):
            main(["--model", str(bert), *flags, *output])
        assert message in capsys.readouterr().err
