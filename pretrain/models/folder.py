"""Whether a model's name is a folder or on the hub, and folders that transformers would misread, or refuse obscurely.

Checked before anything is loaded, so that every command says the same, which file to change and how.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session

_HUB_SECONDS, _POINTER_BYTES = 10.0, 1024
_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
# What kind of vocabulary a family's own tokenizer class has; it misreads a tokenizer.json of another kind
_VOCABULARIES = {
    "bert": "WordPiece", "ernie": "WordPiece", "electra": "WordPiece", "roberta": "BPE", "xlm-roberta": "Unigram",
    "albert": "Unigram",
}  # fmt: skip
_FAMILIES_OF_BERT = '"bert" for BERT, RoBERTa-wwm and MacBERT; "ernie", "electra", "albert", "roberta" for these'
_BERT_CLASS = '{"tokenizer_class": "BertTokenizer"}'


def check_place(name: str) -> None:
    """Raise ValueError if a folder's files would be misread, or if there is neither a folder `name` nor a hub's model.

    A hub that does not answer is asked once. What is in its cache is then read from there, with a warning.
    """
    if Path(name).is_dir():
        _check_pointers(Path(name))
        _check_config(Path(name))
        _check_tokenizer(Path(name))
    elif Path(name).exists():
        raise ValueError(f"{name!r} is a file: name the folder that holds it")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no folder {name!r}")  # no hub id looks like this
    else:
        _check_hub(name)


def _check_pointers(folder: Path) -> None:
    """Raise ValueError for files that `git clone` leaves as pointers where Git LFS is not installed."""
    small = (path for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size < _POINTER_BYTES)
    if pointers := [path.name for path in small if path.read_bytes().startswith(b"version https://git-lfs")]:
        raise ValueError(
            f"{str(folder)!r}: {', '.join(pointers)}: a Git LFS pointer, not the file: run git lfs pull there, or "
            "download it"
        )


def _check_config(folder: Path) -> None:
    """Raise ValueError for the folders of Google, HFL and brightmart, whose configurations tell no family."""
    path = folder / "config.json"
    advice = f'"model_type" ({_FAMILIES_OF_BERT})'
    if not path.is_file():
        named = [other.name for other in sorted(folder.glob("*bert*config*.json")) if "sentence" not in other.name]
        if named:
            raise ValueError(f"{str(folder)!r}: rename {named[0]} to config.json, and add {advice} to it")
    elif "model_type" not in (config := _read_json(path)):
        if "stages" in config or "students" in config:
            models = ", ".join(str(one.parent) for one in sorted(folder.glob("*/model/config.json")))
            remedy = f"name one of its models: {models}" if models else "publish a student of it, and name that folder"
            raise ValueError(f"{str(folder)!r} is a run folder, not a model: {remedy}")
        raise ValueError(f"{str(folder)!r}: its config.json has no model_type: add {advice} to it")


def _check_tokenizer(folder: Path) -> None:
    """Raise ValueError if the class that transformers takes for the model's family cannot read the vocabulary there.

    It would make up a tokenizer of five tokens, or read the pieces as those of another kind.
    """
    settings, config = (_read_json(folder / name) for name in ("tokenizer_config.json", "config.json"))
    named, where = settings.get("tokenizer_class") or config.get("tokenizer_class"), f"{str(folder)!r}:"
    if named:
        has_vocabulary = (folder / "tokenizer.json").is_file()  # which is read whatever the class
        if not has_vocabulary and not any(hasattr(transformers, name) for name in (named, f"{named}Fast")):
            raise ValueError(
                f"{where} its tokenizer_class {named} is none of transformers': write BertTokenizer into its "
                "tokenizer_config.json if it has a vocab.txt"
            )
        return
    family = str(config.get("model_type", ""))
    if (folder / "tokenizer.json").is_file():
        kind = _read_json(folder / "tokenizer.json").get("model", {}).get("type")
        if (wanted := _VOCABULARIES.get(family, kind)) != kind:
            raise ValueError(
                f"{where} its tokenizer.json is a {kind} vocabulary, but {family}'s tokenizer is {wanted}"
                '; write "tokenizer_class": "PreTrainedTokenizerFast" and cls_token, sep_token, pad_token, unk_token '
                "and mask_token into a tokenizer_config.json, or correct model_type in config.json"
            )
    elif (folder / "vocab.txt").is_file() and _VOCABULARIES.get(family) != "WordPiece":
        of_bert = f"{where} vocab.txt is the vocabulary of a BERT tokenizer, "
        write = f'write {_BERT_CLASS[:-1]}, "do_lower_case": true or false}} into its tokenizer_config.json'
        if not family:
            raise ValueError(f"{of_bert}and nothing tells whether it lowercases: {write}")
        also = ', or "model_type": "bert" into config.json: RoBERTa-wwm is BERT' if family == "roberta" else ""
        raise ValueError(f"{of_bert}which {family}'s tokenizer does not read: {write}{also}")


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; {} without one. Raise ValueError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted a JSON object, got {type(values).__name__}")
    return values


def _check_hub(name: str) -> None:
    """Raise ValueError if a name can be neither a folder nor on the hub, without the library's minutes of retries."""
    is_cached = any(isinstance(_cached(name, file), str) for file in _FILES)
    if constants.HF_HUB_OFFLINE:
        problem = f"{constants.ENDPOINT} is not asked because HF_HUB_OFFLINE is set"
    else:
        problem = _hub_problem(name)
    if not problem or (is_cached and constants.HF_HUB_OFFLINE):
        return
    if not is_cached:
        raise ValueError(
            f"no model could be loaded from folder or hub id {name!r}: {Path.cwd()} has no such folder, and {problem}; "
            "correct the path, download the model and name its folder, or set HF_ENDPOINT to a mirror of the hub"
        )
    warnings.warn(f"{problem}: {name!r} is read from the cache", stacklevel=2)
    os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started here
    constants.HF_HUB_OFFLINE = True  # else the library asks again for every file, for half a minute each


def _cached(name: str, file: str) -> Any:
    try:
        return try_to_load_from_cache(name, file)
    except ValueError:  # the name is none that a hub could have
        return None


def _hub_problem(name: str) -> str:
    """Return why the hub cannot be asked; empty if it answers, whatever it says: the library explains that well."""
    try:
        get_session().head(f"{constants.ENDPOINT}/{name}/resolve/main/config.json", timeout=_HUB_SECONDS)
    except Exception as error:  # of several libraries, for names that are not found, proxies, certificates, timeouts
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    return ""
