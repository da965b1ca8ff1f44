"""Special tokens by what they do in rows: they stand before a text, after it, as padding, for masks or unknown text.

BERT's tokenizers call the first two cls_token and sep_token. Others only add them: EmbeddingGemma `<bos>` and `<eos>`,
Qwen3-Embedding `<|endoftext|>` at the end, Qwen3 nothing. What a tokenizer adds decides; names decide for tokenizers
that add nothing.
"""

import warnings
from typing import Any

_TEXT = "天 a 1"  # some of it is in every vocabulary: characters without a piece may be left out
# What each kind of model cannot do without. BPE of bytes, or with bytes to fall back to, knows all text.
_REQUIRED = {"WordPiece": ("cls", "sep", "pad", "unk"), "BPE": ("pad",)}
_SPARE = ("pad", "unused", "reserved", "")  # parts of names, the best first


def frame(tokenizer: Any) -> tuple[int | None, int | None]:
    """Return the ids of the tokens that a tokenizer puts before and after a text; None where it puts nothing.

    Raises ValueError if it puts two or more on one side.
    """
    encoding = tokenizer.backend_tokenizer.encode(_TEXT)
    real = [index for index, is_real in enumerate(encoding.attention_mask) if is_real]  # some files ask for padding
    text = [index for index in real if not encoding.special_tokens_mask[index]]
    if not text or len(text) == len(real):
        return tokenizer.cls_token_id, tokenizer.sep_token_id
    sides = [index for index in real if index < text[0]], [index for index in real if index > text[-1]]
    for where, side in zip(("before", "after"), sides, strict=True):
        if len(side) > 1:
            tokens = " ".join(encoding.tokens[index] for index in side)
            raise ValueError(f"adds {len(side)} tokens {where} a text ({tokens}), but rows have room for one")
    before, after = ([encoding.ids[index] for index in side] for side in sides)
    return (before[0] if before else None), (after[0] if after else None)


def special_token_ids(tokenizer: Any) -> dict[str, int | None]:
    """Return the ids of cls (before a text), sep (after it), pad, unk and mask; None for what a tokenizer lacks."""
    before, after = frame(tokenizer)
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "mask")}
    return {"cls": before, "sep": after, **named}


def settle_special_tokens(name: str, tokenizer: Any, state: dict[str, Any]) -> None:
    """Check that rows can be built with a tokenizer's special tokens, and give a decoder's its own pad token.

    Decoders pad with the token that ends a text, or have no pad token. But padding must be told from text, and models
    do not train the embedding they pad with: another special token takes its place, with a warning. Warns too of an
    end token that the folder's settings ask for, but its tokenizer.json does not add.

    Args:
        state: the content of tokenizer.json.

    Raises ValueError for missing special tokens, for padding that is not told from others, and as `frame`.
    """
    kind = state["model"]["type"]
    try:
        ids = special_token_ids(tokenizer)
    except ValueError as error:
        raise ValueError(f"tokenizer {name!r}: {error}") from error
    _warn_of_settings(name, tokenizer, ids)
    others = [ids["cls"], ids["sep"], *([] if kind == "BPE" else [ids["unk"]])]
    if kind == "BPE" and ids["pad"] in (None, *others):
        spare = _spare_token(state["added_tokens"], [*ids.values(), tokenizer.bos_token_id, tokenizer.eos_token_id])
        if spare:
            before = "has no pad_token"
            if ids["pad"] is not None:
                before = f"pads with {tokenizer.pad_token}, which frames a text too"
            warnings.warn(f"tokenizer {name!r}: {before}; padding is {spare} here, and in what is saved", stacklevel=3)
            tokenizer.pad_token = spare
            return
    if missing := [f"{token}_token" for token in _REQUIRED.get(kind, ("pad", "unk")) if ids[token] is None]:
        raise ValueError(f"tokenizer {name!r}: lacks {', '.join(missing)}, which rows need")
    if ids["pad"] in others:
        raise ValueError(f"tokenizer {name!r}: pad_token must differ from cls_token, sep_token and unk_token")


def _warn_of_settings(name: str, tokenizer: Any, ids: dict[str, int | None]) -> None:
    """Warn of add_bos_token and add_eos_token, which transformers 4 obeyed and 5 reads, but leaves without effect."""
    for key, role, token in (("bos", "cls", tokenizer.bos_token), ("eos", "sep", tokenizer.eos_token)):
        if tokenizer.init_kwargs.get(f"add_{key}_token") and ids[role] is None:
            where = "before" if key == "bos" else "after"
            warnings.warn(
                f"tokenizer {name!r}: its settings say add_{key}_token, but its tokenizer.json puts nothing {where} a "
                f"text: if the model was trained with {token} there, add it to the post_processor of tokenizer.json",
                stacklevel=4,
            )


def _spare_token(added: list[dict[str, Any]], used: list[int | None]) -> str | None:
    """Return a special token that has no role, best one that is named for padding or kept in reserve."""
    free = [entry["content"] for entry in added if entry["special"] and entry["id"] not in used]
    return next((token for part in _SPARE for token in free if part in token), None)
