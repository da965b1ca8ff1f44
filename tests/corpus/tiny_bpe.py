"""Tiny BPE tokenizers of both kinds, arranged as Qwen3-Embedding's and EmbeddingGemma's are."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END, PAD, RESERVED = "<|endoftext|>", "<|vision_pad|>", "<|im_start|>"
TEXTS = [
    "知识蒸馏：用大模型教小模型，小模型也能用。",
    "大模型的知识，小模型的速度 distillation works, distil it",
    "天地玄黄，宇宙洪荒；日月盈昃，辰宿列张。天地天地玄黄宇宙",
]
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PIECES = ["天地", "地玄", "天地玄", "玄黄", "天地玄黄", "ab", "bc", "cd", "abc", "abcd", "▁a", "▁ab", "▁天"]


def _special(tokens: list[str]) -> list[AddedToken]:
    return [AddedToken(token, normalized=False, special=True) for token in tokens]


def byte_level(before: str = "", after: str = END) -> Tokenizer:
    """BPE of bytes with Qwen's way of splitting words, trained on `TEXTS`; every byte is a piece."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(_special([END, RESERVED, PAD]))
    return _framed(tokenizer, before, after)


def falling_back() -> Tokenizer:
    """SentencePiece's BPE with bytes for characters without a piece; some pieces have several merges."""
    characters = ["▁", *"天地玄黄abcde"]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*_PIECES, *characters, "<unused0>", "<unused1>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [
        (piece[:place], piece[place:])
        for piece in _PIECES
        for place in range(1, len(piece))
        if piece[:place] in vocabulary and piece[place:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_special([*pieces[:5], *pieces[-2:]]))
    return _framed(tokenizer, "<bos>", "<eos>")


def _framed(tokenizer: Tokenizer, before: str, after: str) -> Tokenizer:
    if before or after:
        ends = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys([before, after]) if token]
        single = f"{before} $A {after}".strip()
        pair = f"{single} $B:1 {after}".strip()
        template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def save_byte_level(folder: Path, before: str = "", after: str = END, **names: str) -> Path:
    """Save as Qwen3-Embedding's folder: padding is the token that ends a text."""
    names = {"eos_token": END, "pad_token": END} | names
    PreTrainedTokenizerFast(tokenizer_object=byte_level(before, after), **names).save_pretrained(folder)
    return folder


def save_falling_back(folder: Path) -> Path:
    """Save as EmbeddingGemma's folder, with a mask token as mmBERT has."""
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=falling_back(), **names).save_pretrained(folder)
    return folder
