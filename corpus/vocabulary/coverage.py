"""How well a vocabulary covers a text: tokens a character, unknown tokens, and the most frequent unknown spellings."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from corpus.vocabulary.texts import text_batches
from corpus.vocabulary.tokenizer import TextEncoder


@dataclass
class Coverage:
    """Counts over texts; `str` formats them. `unknown` counts the spellings that became the unknown token."""

    num_characters: int = 0
    num_tokens: int = 0
    num_unknown: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def unknown_rate(self) -> float:
        """Unknown tokens per 1,000 characters."""
        return 1000 * self.num_unknown / max(self.num_characters, 1)

    @property
    def tokens_per_character(self) -> float:
        """Tokens per character; 0 without text."""
        return self.num_tokens / max(self.num_characters, 1)

    def __str__(self) -> str:
        ranked = sorted(self.unknown.items(), key=lambda item: (-item[1], item[0]))[:20]
        named = ", ".join(f"{spelling[:20]!r} (U+{ord(spelling[0]):04X}) {count:,}" for spelling, count in ranked)
        return (
            f"{self.num_characters:,} characters, {self.num_tokens:,} tokens, "
            f"{self.tokens_per_character:.3f} tokens a character, "
            f"{self.unknown_rate:.3f} unknown in 1,000 characters\nunknown most often: {named or 'none'}"
        )


def measure_coverage(tokenizer: Any, texts: Iterable[str]) -> Coverage:
    """Measure the coverage of a loaded fast tokenizer on normalised texts."""
    coverage = Coverage()
    backend = TextEncoder(tokenizer, fast=False).backend
    unk_id = tokenizer.unk_token_id
    for batch in text_batches(texts):
        # encode_batch, not the faster encode_batch_fast: offsets are needed to find what an unknown token stands for
        for text, encoding in zip(batch, backend.encode_batch(batch, add_special_tokens=False), strict=True):
            spans = [span for index, span in zip(encoding.ids, encoding.offsets, strict=True) if index == unk_id]
            coverage.num_characters += len(text)
            coverage.num_tokens += len(encoding.ids)
            coverage.num_unknown += len(spans)
            coverage.unknown.update(text[start:end] for start, end in spans)
    return coverage
