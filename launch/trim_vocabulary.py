"""Trim a model's vocabulary to the pieces that a text uses, for example a multilingual teacher's for Chinese students.

python launch/trim_vocabulary.py --model FOLDER_OR_ID --corpus CORPUS_OR_MANIFEST --output OUT
python launch/trim_vocabulary.py --model FOLDER_OR_ID --input PATH ... --format lines --output OUT

Pieces that occur, single characters or bytes, special tokens, and what kept pieces are merged from are kept, with
their rows of the embeddings; the rest of the model is unchanged. On sample texts the tokens and all hidden states are
compared and must be bitwise equal. Works with WordPiece (BERT), SentencePiece unigram (XLM-R), byte-level BPE (Qwen,
ModernBERT, EuroBERT) and SentencePiece BPE (Gemma, mmBERT) vocabularies. Files by which sentence-transformers reads a
folder's model come along.
Exit codes: 0 done, 2 the input was refused (a line `error: ...`), 130 stopped by Ctrl-C.
"""

import argparse
import copy
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.progress import show_progress_with, track
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import count_corpus_pieces, read_block
from corpus.vocabulary.saved import save_tokenizer
from corpus.vocabulary.texts import read_texts
from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from corpus.vocabulary.trimming import check_same_pieces, count_pieces, kept_ids, trim_tokenizer
from launch.command_line.next_command import build_line
from launch.command_line.output_folder import new_output_folder
from launch.command_line.source_flags import add_source_flags, build_source
from launch.command_line.terminal import accept_any_terminal
from launch.job.messages import mute_transformers
from pretrain.models.folder import check_place
from pretrain.models.pretrained import load_pretrained
from pretrain.models.shape import row_offset
from pretrain.models.weights import check_found
from pretrain.progress import Progress

_SAMPLE_TEXTS = 256
_SAMPLE_ROWS = 16
_SAMPLE_TOKENS = 128
# How sentence-transformers reads a model: its modules, of which each has a folder, its prompts, its longest text
_SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, metavar="FOLDER_OR_ID", help="folder or hub id of the model and its fast tokenizer"
    )
    parser.add_argument("--corpus", help="a corpus built with the model's tokenizer: folder, URL or manifest")
    add_source_flags(parser, required=False)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to write model and tokenizer into; must not exist",
    )
    options = parser.parse_args(arguments)
    if bool(options.corpus) == bool(options.inputs):
        parser.error("give either --corpus or --input")
    if options.inputs and not options.format:
        parser.error("--input needs --format")
    return options


def count_used(options: argparse.Namespace, tokenizer: Any) -> tuple[np.ndarray, list[str]]:
    """Return how often each piece occurs, int64 [V], and sample texts.

    Raises ValueError for a corpus built with another tokenizer.
    """
    if not options.corpus:
        sample: list[str] = []
        texts = _sampled(track(read_texts(build_source(options)), "counting pieces", None, "texts"), sample)
        return count_pieces(tokenizer.backend_tokenizer, texts), sample
    manifest = load_manifest(options.corpus)
    if manifest.tokenizer.fingerprint != tokenizer_fingerprint(tokenizer):
        raise ValueError(
            f"{options.corpus}: was built with another tokenizer ({manifest.tokenizer.name}) than {options.model}'s"
        )
    ids, lengths, _ = read_block(manifest, 0)
    documents = np.split(ids, np.cumsum(lengths)[:-1])[:_SAMPLE_TEXTS]
    # A text cut within a character ends with a replacement character, and may be split otherwise than in the corpus
    sample = [tokenizer.decode(document[:_SAMPLE_TOKENS]).rstrip("\ufffd") for document in documents]
    return count_corpus_pieces(manifest) + count_pieces(tokenizer.backend_tokenizer, sample), sample


def _sampled(texts: Iterator[str], sample: list[str]) -> Iterator[str]:
    """Yield the texts, and append the first 256 to `sample`."""
    for text in texts:
        if len(sample) < _SAMPLE_TEXTS:
            sample.append(text)
        yield text


@Progress("loading the model")
def load_model(name: str) -> tuple[PreTrainedModel, set[str]]:
    """Load a model with its head, in the precision it was saved in; return it and the names of missing weights.

    Raises ValueError if it cannot be loaded, or weights of its encoder are missing or read by nothing. Warns of heads
    that are left out.
    """
    architectures = load_pretrained(AutoConfig, name).architectures or [""]
    named = getattr(transformers, architectures[0], None)
    cls = named if isinstance(named, type) and issubclass(named, PreTrainedModel) else AutoModel
    model, found = load_pretrained(cls, name, dtype="auto", output_loading_info=True)
    check_found(name, model, found)
    if unread := sorted(key for key in found["unexpected_keys"] if not key.endswith("position_ids")):
        message = f"left out: {len(unread)} weights of heads that {cls.__name__} has not, such as {unread[0]}"
        warnings.warn(message, stacklevel=2)
    return model.eval(), set(found["missing_keys"])


def trim_model(model: PreTrainedModel, kept: np.ndarray) -> PreTrainedModel:
    """Return a copy of the model whose vocabulary is the pieces of the old ids `kept`, in that order.

    Raises ValueError if a weight with a row for each piece is neither of its embeddings nor of its head.
    """
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    by_piece = {p.data_ptr() for module in modules if module is not None for p in module.parameters()}
    rows = torch.from_numpy(kept)
    full = model.state_dict()
    state = {name: value[rows] if value.data_ptr() in by_piece else value.clone() for name, value in full.items()}
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size = len(kept)
    _renumber(config, kept)
    small = type(model)(config)
    if other := [name for name, value in small.state_dict().items() if value.shape != state[name].shape]:
        raise ValueError(
            f"{type(model).__name__}: {other[0]} depends on the vocabulary in a way that is not known here"
        )
    small.load_state_dict(state, assign=True)  # each in its own precision; buffers that are not saved keep theirs
    small.tie_weights()
    if generation := getattr(model, "generation_config", None):
        small.generation_config = copy.deepcopy(generation)
        _renumber(small.generation_config, kept)
    return small.eval()


def _renumber(config: Any, kept: np.ndarray) -> None:
    """Renumber all ids of tokens in a configuration, such as pad_token_id, single ones and lists, in place."""
    new_ids = {old: new for new, old in enumerate(kept.tolist())}
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _renumber(value, kept)
        elif not key.endswith("_token_id") or value is None:
            continue
        elif isinstance(value, list):
            setattr(config, key, [new_ids[index] for index in value if index in new_ids] or None)
        else:
            setattr(config, key, new_ids.get(value))


@torch.no_grad()
def check_same_states(model: PreTrainedModel, small: PreTrainedModel, ids: torch.Tensor, kept: np.ndarray) -> None:
    """Raise ValueError if any hidden state of `ids` [B, L] (old ids) differs between the two models by a single bit."""
    new_ids = torch.from_numpy(np.searchsorted(kept, ids.numpy()))
    before = model(input_ids=ids, output_hidden_states=True).hidden_states
    after = small(input_ids=new_ids, output_hidden_states=True).hidden_states
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        if not torch.equal(old, new):
            most = float((old - new).abs().max())
            raise ValueError(
                f"the trimmed model has different hidden states from layer {layer} on, by up to {most:.3g}"
            )


def copy_sentence_files(model: Path, folder: Path) -> None:
    """Copy the files by which sentence-transformers reads a model's folder: pooling, dense layers, prompts."""
    for name in _SENTENCE_FILES:
        if (model / name).is_file():
            shutil.copy(model / name, folder / name)
    for module in sorted(model.glob("[0-9]_*")):
        shutil.copytree(module, folder / module.name)


def save_trimmed(options: argparse.Namespace, folder: Path) -> str:
    """Write the trimmed model and tokenizer into `folder`, check them, and return a summary in one line."""
    check_place(options.model)
    tokenizer = load_tokenizer(options.model)
    counts, sample = count_used(options, tokenizer)
    kept = kept_ids(tokenizer.backend_tokenizer, counts)
    backend = trim_tokenizer(tokenizer.backend_tokenizer, kept)
    check_same_pieces(tokenizer.backend_tokenizer, backend, sample)
    model, missing = load_model(options.model)
    small = trim_model(model, kept)
    rows = [tokenizer(text, truncation=True, max_length=_SAMPLE_TOKENS)["input_ids"] for text in sample[:_SAMPLE_ROWS]]
    saved_in = small.dtype
    for one in (model, small):
        one.float()  # the saved precision may be slow on this CPU; float32 represents its values exactly
    for row in Progress("comparing hidden states", len(rows), "texts").over(rows):
        check_same_states(model, small, torch.tensor([row]), kept)
    small.to(saved_in)
    names = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    trimmed = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        **names,
    )
    save_tokenizer(trimmed, folder)
    settings = small.config.get_text_config()
    if not row_offset(settings):
        settings.pad_token_id = trimmed.pad_token_id  # the tokenizer may have been given another
    # transformers fills missing weights (usually a pooler) with random numbers: do not save them
    small.save_pretrained(folder, state_dict={n: v for n, v in small.state_dict().items() if n not in missing})
    copy_sentence_files(Path(options.model), folder)
    sizes = [f"{m.num_parameters() / 1e6:.1f}M" for m in (model, small)]
    return (
        f"vocabulary {len(counts):,} -> {len(kept):,}, parameters {sizes[0]} -> {sizes[1]}; "
        f"checked: {len(sample)} texts have the same tokens, {len(rows)} the same hidden states"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    accept_any_terminal()
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    show_progress_with(Progress)
    options = parse_arguments(arguments)
    mute_transformers()
    try:
        with new_output_folder(options.output) as folder:
            done = save_trimmed(options, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.output}: {done}")
    print(build_line(options, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
