"""Train tokenizers on text: WordPiece for BERT's family, unigram for XLM-R's.

Both use SentencePiece's trainers: those of `tokenizers` break ties by the order of a hash table, so that the same
text gives a different vocabulary every time, and for unigram they take far longer.
"""

import io
import re
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

from corpus.vocabulary.saved import save_tokenizer
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
_TOO_FEW = re.compile(r"smaller than required_chars\. (\d+) vs (\d+)")  # SentencePiece: size given, characters wanted
# Two private-use planes: characters that begin a word, and characters within a word
_FIRST, _CONTINUING = 0xF0000, 0x100000
_MAX_SENTENCES = 1_000_000
_SENTENCE_CHARACTERS = 1000
_SEED = 17
# Fixed: sums over threads differ in their last bit with the number of threads
_NUM_THREADS = 8


def build_wordpiece(pieces: Sequence[str], lowercase: bool) -> Tokenizer:
    """Build BERT's tokenizer over a vocabulary.

    Args:
        pieces: the vocabulary by id, BERT_SPECIAL included.
        lowercase: also strip accents, as BERT's uncased models do.
    """
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
    """Build XLM-R's tokenizer over a vocabulary.

    Args:
        pieces: the vocabulary by id, `<s> <pad> </s> <unk> <mask>` included.
        scores: the log probability of each piece.
    """
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
    """Save a WordPiece or unigram tokenizer into a folder that AutoTokenizer loads; return it as transformers' class.

    Args:
        max_tokens: model_max_length, at which transformers truncates.
    """
    names = _NAMES[type(tokenizer.model).__name__]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
    save_tokenizer(wrapped, folder)
    return wrapped


def train_wordpiece(texts: Iterable[str], vocab_size: int, character_coverage: float, lowercase: bool) -> Tokenizer:
    """Train a WordPiece tokenizer like BERT's. Ids: special tokens, characters, then merges, each by frequency.

    Args:
        texts: normalised texts, read once.
        vocab_size: pieces in all, special tokens included.
        character_coverage: the share of the text's characters that the vocabulary's single characters cover.
        lowercase: also strip accents, as BERT's uncased models do.

    Raises ValueError if there are no words, or if the characters alone exceed `vocab_size`. Warns if the text gives
    fewer pieces than `vocab_size`.
    """
    splitter = build_wordpiece(["[UNK]"], lowercase)
    words = WordPieceTable(splitter, np.dtype(np.uint16)).count_words(texts)
    if not words:
        raise ValueError("the text has no words for the tokenizer")
    characters = _most_frequent(_count(words.items()), character_coverage)
    known = set(characters)
    inner = _count((word[1:], count) for word, count in words.items())
    continuing = [f"##{char}" for char, _ in _by_frequency(inner) if char in known]
    pieces = [*BERT_SPECIAL, *characters, *continuing]
    if len(pieces) > vocab_size:
        raise ValueError(
            f"{len(characters)} characters and {len(continuing)} continuations (##) cover "
            f"{character_coverage:.4%} of the text, too many for a vocabulary of {vocab_size}; "
            "choose a larger one, or a lower --character-coverage"
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


def _most_frequent(counts: Counter[str], coverage: float) -> list[str]:
    """The most frequent characters that cover a share of the text, with all that are as frequent as the last."""
    ranked = _by_frequency(counts)
    numbers = np.array([count for _, count in ranked])
    enough = int(np.searchsorted(np.cumsum(numbers), coverage * numbers.sum()))
    least = numbers[min(enough, len(numbers) - 1)]
    return [char for char, count in ranked if count >= least]


def _train_merges(words: dict[str, int], characters: list[str], num_merges: int) -> list[str]:
    """Pieces of more than one character, in the order in which byte-pair encoding finds them.

    The trainer gets different symbols for a character at the beginning of a word and within it, so that `he` and
    `##he` are two pieces.
    """
    first = {ord(char): chr(_FIRST + index) for index, char in enumerate(characters)}
    inner = {ord(char): chr(_CONTINUING + index) for index, char in enumerate(characters)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "words.tsv")
        with path.open("w", encoding="utf-8") as file:
            for word, count in sorted(words.items()):
                file.write(f"{word[0].translate(first)}{word[1:].translate(inner)}\t{count}\n")
        # More than needed, for the trainer's own symbols; the caller drops the excess.
        num_pieces = num_merges + 2 * len(characters) + 3
        model = _train(
            input=str(path), input_format="tsv", model_type="bpe", vocab_size=num_pieces, character_coverage=1.0,
            add_dummy_prefix=False, split_by_unicode_script=False, split_by_number=False,
        )  # fmt: skip
    return [_spell(piece, characters) for piece, _ in model if len(piece) > 1 and ord(piece[0]) >= _FIRST]


def _spell(piece: str, characters: list[str]) -> str:
    prefix = "" if ord(piece[0]) < _CONTINUING else "##"
    return prefix + "".join(characters[ord(char) & 0xFFFF] for char in piece)


def train_unigram(texts: Iterable[str], vocab_size: int, character_coverage: float) -> Tokenizer:
    """Train a unigram tokenizer like XLM-R's on up to a million lines of the texts, drawn with a fixed seed.

    Arguments as for `train_wordpiece`. Raises ValueError if the trainer finds the vocabulary too small.
    """
    sentencepiece.set_random_generator_seed(_SEED)
    normalizer = _xlmr_normalizer()
    num_own = len(XLMR_SPECIAL) + 1
    model = _train(
        sentence_iterator=_sentences(normalizer, texts), model_type="unigram", vocab_size=vocab_size - num_own + 3,
        character_coverage=character_coverage, num_threads=_NUM_THREADS, input_sentence_size=_MAX_SENTENCES,
        shuffle_input_sentence=True, max_sentence_length=4 * _SENTENCE_CHARACTERS + 8,
    )  # fmt: skip
    own = {*XLMR_SPECIAL, _XLMR_MASK}
    learnt = [(piece, score) for piece, score in model if piece not in own]
    entries = [*((token, 0.0) for token in XLMR_SPECIAL), *learnt, (_XLMR_MASK, 0.0)]
    _warn_of_few(len(entries), vocab_size)
    return build_unigram([piece for piece, _ in entries], [score for _, score in entries])


def _sentences(normalizer: Any, texts: Iterable[str]) -> Iterator[str]:
    """Normalised lines, cut into pieces of 1,000 characters: the trainer silently skips longer ones."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _SENTENCE_CHARACTERS):
                yield normalizer.normalize_str(line[start : start + _SENTENCE_CHARACTERS])


def _train(**settings: Any) -> list[tuple[str, float]]:
    """Run SentencePiece's trainer; return the pieces of the model and their scores."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            model_writer=model, normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2, **settings
        )
    except RuntimeError as error:
        if few := _TOO_FEW.search(str(error)):
            raise ValueError(
                f"{few[2]} characters cover the text, too many for {few[1]} pieces beside the special tokens; choose a "
                "larger vocabulary, or a lower --character-coverage"
            ) from error
        raise ValueError(f"SentencePiece cannot train this vocabulary: {error}") from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]


def _warn_of_few(num_pieces: int, vocab_size: int) -> None:
    if num_pieces < vocab_size:
        warnings.warn(f"the text gives only {num_pieces} pieces of the {vocab_size} asked for", stacklevel=3)
