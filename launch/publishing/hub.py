"""Upload of a published or exported folder to a model hub."""

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.repocard import metadata_load

from launch.publishing.making import is_hub_id
from pretrain.models.pretrained import one_line

_METADATA = ("language", "license")  # without which nobody knows whether the weights may be used, and for what


def check_push(repo: str) -> None:
    """Raise ValueError if a name is no hub's, or there is no token to upload with."""
    if not is_hub_id(repo):
        raise ValueError(f"--push {repo}: wanted OWNER/NAME")
    if not huggingface_hub.get_token():
        raise ValueError(f"--push {repo}: no token: set HF_TOKEN to one of the hub's that may write")


def check_card(folder: Path) -> None:
    """Raise ValueError if a folder has no card, or one whose metadata names no language or licence."""
    path = folder / "README.md"
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: a folder to upload has a model card")
    try:
        metadata = metadata_load(path) or {}
    except ValueError as error:
        raise ValueError(f"{path}: its metadata cannot be read: {one_line(error)}") from error
    if missing := [key for key in _METADATA if not metadata.get(key)]:
        raise ValueError(f"{path}: its metadata has no {', '.join(missing)}: publish with --licence, or add it there")


def push(folder: Path, repo: str, public: bool = False) -> str:
    """Upload a folder's files to a repository of the hub HF_ENDPOINT, made if it does not exist; return its address.

    The token is that of HF_TOKEN, or of `hf auth login`.

    Raises:
        ValueError: if the card is not complete, the hub refuses or cannot be reached, or the repository is public and
            `public` is not set. The folder stays as it is.
    """
    check_push(repo)
    check_card(folder)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=huggingface_hub.get_token())
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        is_public = not api.repo_info(repo).private
        if is_public and not public:
            raise ValueError("it is there already and public: give --public to upload to it, or another name")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Add {folder.name}")
    except Exception as error:  # of several libraries, for refusals, certificates, proxies and timeouts
        raise ValueError(f"--push {repo}: not uploaded: {one_line(error)}; {folder} is whole") from error
    return str(address)
