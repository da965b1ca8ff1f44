"""Vocabularies trained on text: WordPiece for BERT's family, unigram for XLM-R's.

Both by SentencePiece's trainers: the ones of `tokenizers` break ties by the order of a hash table, so that the
same text gives another vocabulary every time, and for unigram they take far longer.
"""

import io
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from corpus.vocabulary.tokenizer import save_tokenizer
from corpus.vocabulary.wordpiece import WordPieceTable

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
XLMR_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_XLMR_MASK = "<mask>"
_NAMES = {
    "WordPiece": {
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    },
    "Unigram": {
        "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
        "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": _XLMR_MASK,
    },
}  # fmt: skip
# Two planes for private use: what begins a word, and what continues it
_FIRST, _CONTINUING = 0xF0000, 0x100000
_MAX_SENTENCES = 1_000_000
_SENTENCE_CHARACTERS = 1000
_SEED = 17
# Sums over threads differ in their last bit with the number of threads, so it is no one's choice
_NUM_THREADS = 8


def build_wordpiece(pieces: Sequence[str], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over `pieces`, the special ones among them."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if len(pieces) > 1:
        ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        tokenizer.add_special_tokens(list(BERT_SPECIAL))
    return tokenizer


def build_unigram(pieces: Sequence[str], scores: Iterable[float]) -> Tokenizer:
    """XLM-R's tokenizer over `pieces`, `<s> <pad> </s> <unk> <mask>` among them."""
    vocabulary = list(zip(pieces, map(float, scores), strict=True))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=pieces.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = _xlmr_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, pieces.index(token)) for token in ("<s>", "</s>")],
    )
    tokenizer.add_special_tokens([*XLMR_SPECIAL, _XLMR_MASK])
    return tokenizer


def _xlmr_normalizer() -> Any:
    one_space = normalizers.Replace(Regex(" {2,}"), " ")
    return normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), one_space])


def save_backend(tokenizer: Tokenizer, max_tokens: int, folder: Path) -> PreTrainedTokenizerFast:
    """Writes `tokenizer.json` and `tokenizer_config.json`; returns the tokenizer as transformers sees it."""
    names = _NAMES[type(tokenizer.model).__name__]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
    save_tokenizer(wrapped, folder)
    return wrapped


def train_wordpiece(texts: Iterable[str], vocab_size: int, coverage: float, lowercase: bool) -> Tokenizer:
    """A WordPiece tokenizer of BERT's kind: special tokens, characters, then merges, each by frequency.

    `coverage` is the share of the text's characters that the vocabulary's single characters make up. Raises
    ValueError for a text of nothing, and when these alone are more than `vocab_size`; warns where the text gives
    fewer pieces.
    """
    splitter = build_wordpiece(["[UNK]"], lowercase)
    words = WordPieceTable(splitter, np.dtype(np.uint16)).count_words(texts)
    if not words:
        raise ValueError("the text holds no word that the tokenizer would see")
    characters = _covering(_count(words.items()), coverage)
    known = set(characters)
    inner = _count((word[1:], count) for word, count in words.items())
    continuing = [f"##{char}" for char, _ in _by_frequency(inner) if char in known]
    pieces = [*BERT_SPECIAL, *characters, *continuing]
    if len(pieces) > vocab_size:
        raise ValueError(
            f"{len(characters)} characters and {len(continuing)} inside of words make up {coverage:.4%} of the text, "
            f"too many for a vocabulary of {vocab_size}; take a larger one, or a lower --character-coverage"
        )
    spelled = {word: count for word, count in words.items() if len(word) > 1 and known.issuperset(word)}
    merges = _train_merges(spelled, characters, vocab_size - len(pieces)) if spelled else []
    pieces = list(dict.fromkeys([*pieces, *merges]))[:vocab_size]
    _warn_of_few(len(pieces), vocab_size)
    return build_wordpiece(pieces, lowercase)


def _count(words: Iterable[tuple[str, int]]) -> Counter[str]:
    characters: Counter[str] = Counter()
    for word, count in words:
        for char in word:
            characters[char] += count
    return characters


def _by_frequency(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _covering(counts: Counter[str], coverage: float) -> list[str]:
    """The most frequent characters that make up a share of the text, none left out that is as frequent as one."""
    ranked = _by_frequency(counts)
    numbers = np.array([count for _, count in ranked])
    enough = int(np.searchsorted(np.cumsum(numbers), coverage * numbers.sum()))
    least = numbers[min(enough, len(numbers) - 1)]
    return [char for char, count in ranked if count >= least]


def _train_merges(words: dict[str, int], characters: list[str], num_merges: int) -> list[str]:
    """Pieces of more than one character, in the order in which byte-pair encoding finds them.

    The trainer sees a letter that begins a word as another than the same within: so `he` and `##he` are two.
    """
    first = {ord(char): chr(_FIRST + index) for index, char in enumerate(characters)}
    inner = {ord(char): chr(_CONTINUING + index) for index, char in enumerate(characters)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "words.tsv")
        with path.open("w", encoding="utf-8") as file:
            for word, count in sorted(words.items()):
                file.write(f"{word[0].translate(first)}{word[1:].translate(inner)}\t{count}\n")
        # Room for the trainer's own symbols; what is too much is cut off by the caller.
        num_pieces = num_merges + 2 * len(characters) + 3
        model = _train(
            input=str(path), input_format="tsv", model_type="bpe", vocab_size=num_pieces, character_coverage=1.0,
            add_dummy_prefix=False, split_by_unicode_script=False, split_by_number=False,
        )  # fmt: skip
    return [_spell(piece, characters) for piece, _ in model if len(piece) > 1 and ord(piece[0]) >= _FIRST]


def _spell(piece: str, characters: list[str]) -> str:
    prefix = "" if ord(piece[0]) < _CONTINUING else "##"
    return prefix + "".join(characters[ord(char) & 0xFFFF] for char in piece)


def train_unigram(texts: Iterable[str], vocab_size: int, coverage: float) -> Tokenizer:
    """A unigram tokenizer of XLM-R's kind, trained on a million sentences of the texts, drawn by a fixed seed.

    `coverage` as in `train_wordpiece`. Raises ValueError where the trainer finds the size too small.
    """
    sentencepiece.set_random_generator_seed(_SEED)
    normalizer = _xlmr_normalizer()
    num_own = len(XLMR_SPECIAL) + 1
    model = _train(
        sentence_iterator=_sentences(normalizer, texts), model_type="unigram", vocab_size=vocab_size - num_own + 3,
        character_coverage=coverage, num_threads=_NUM_THREADS, input_sentence_size=_MAX_SENTENCES,
        shuffle_input_sentence=True, max_sentence_length=4 * _SENTENCE_CHARACTERS + 8,
    )  # fmt: skip
    own = {*XLMR_SPECIAL, _XLMR_MASK}
    learnt = [(piece, score) for piece, score in model if piece not in own]
    entries = [*((token, 0.0) for token in XLMR_SPECIAL), *learnt, (_XLMR_MASK, 0.0)]
    _warn_of_few(len(entries), vocab_size)
    return build_unigram([piece for piece, _ in entries], [score for _, score in entries])


def _sentences(normalizer: Any, texts: Iterable[str]) -> Iterator[str]:
    """Lines cut at a length: the trainer passes over longer ones without a word."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _SENTENCE_CHARACTERS):
                yield normalizer.normalize_str(line[start : start + _SENTENCE_CHARACTERS])


def _train(**settings: Any) -> list[tuple[str, float]]:
    """Pieces and scores of a model that SentencePiece's trainer makes."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            model_writer=model, normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2, **settings
        )
    except RuntimeError as error:
        raise ValueError(f"SentencePiece cannot train this vocabulary: {error}") from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]


def _warn_of_few(num_pieces: int, vocab_size: int) -> None:
    if num_pieces < vocab_size:
        warnings.warn(f"the text gives only {num_pieces} pieces of the {vocab_size} asked for", stacklevel=3)
