"""Input files, local or at an fsspec URL (http, s3, ...), listed in a fixed order.

Inputs are files, folders, patterns such as `data/*.jsonl.gz`, and datasets; zips and plain tars are listed by member.
Empty files among others are skipped with a warning.
"""

import fnmatch
import glob
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import fsspec

from corpus.reading import archive, tables
from corpus.reading.bad_input import BadInput, OnBadInput
from corpus.reading.compression import INFLATE_ERRORS, is_compressed
from corpus.remote import call, open_remote, reason_of, retry

# Entries of an fsspec `info` that change when a file changes.
_VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
_WILDCARD = re.compile(r"[*?[]")
_EMPTY = "empty, probably truncated"
# ImportError: fsspec knows the protocol, but the package behind it is not installed.
_READ_ERRORS = (OSError, ImportError, *INFLATE_ERRORS, *archive.ARCHIVE_ERRORS)


@dataclass(frozen=True, slots=True)
class Part:
    """One input stream: a file, a member of a zip or of a plain tar, or a whole compressed tar.

    Attributes:
        name: relative to the folder that contains the input.
        path: of the file, local or a URL.
        num_bytes: size as stored, from `offset` on; of a zip's member, its inflated size.
        version: changes when the file does (size and time, or what the server reports).
        member: the name inside a zip.
        offset: where a member of a plain tar begins in its file.
        fault: why nothing of it can be read, of inputs at fault that are skipped; else empty.
    """

    name: str
    path: str
    num_bytes: int
    version: str
    member: str | None = None
    offset: int = 0
    fault: str = ""

    @property
    def is_splittable(self) -> bool:
        """Whether reading may begin at any byte."""
        return self.member is None and not is_packed(self.name)


def is_packed(name: str) -> bool:
    """Whether a name is that of a compressed file, an archive or a table, whose bytes are no plain text."""
    return is_compressed(name) or archive.is_tar(name) or archive.is_zip(name) or tables.is_table(name)


def find_parts(inputs: Iterable[str | Path], on_bad_input: OnBadInput = "stop") -> list[Part]:
    """Return all parts of files, folders, archives and URLs, sorted by name: the order is the same on any machine.

    Empty files are left out with a warning. Raises ValueError for an input that does not exist or has only empty
    files, and for a pattern that nothing matches. Raises BadInput for a file that cannot be read and for an empty one
    of a kind that is never empty, such as .gz; with `on_bad_input` "skip" they are parts with a fault.
    """
    found = {str(item): list(_parts_of(str(item))) for item in inputs}
    if on_bad_input == "stop":
        _check_faults([part for parts in found.values() for part in parts])
        _check_empty(found)
    for root, of_root in found.items():
        archive.warn_of_empty(root, [part.name for part in of_root if not part.num_bytes and not part.fault])
    parts = {
        (_absolute(part.path), part.member, part.offset): part
        for of_root in found.values()
        for part in of_root
        if part.num_bytes or part.fault
    }
    return sorted(parts.values(), key=lambda part: (part.name, part.path))


def _check_faults(parts: list[Part]) -> None:
    faulty = [part for part in parts if part.fault and part.fault != _EMPTY]
    if faulty:
        others = [part.name for part in faulty[1:]]
        more = f"; so are {archive.first_ten(others)} ({len(faulty)} inputs at fault)" if others else ""
        is_member = faulty[0].member or faulty[0].offset
        raise BadInput(faulty[0].name if is_member else faulty[0].path, faulty[0].fault + more)


def _check_empty(found: dict[str, list[Part]]) -> None:
    refused = [root for root, parts in found.items() if not any(part.num_bytes for part in parts)]
    refused += [part.name for root, parts in found.items() if root not in refused for part in parts if part.fault]
    if refused:
        raise BadInput(archive.first_ten(refused), f"{_EMPTY} ({len(refused)} in all)")


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)  # Path.resolve() raises for a loop of links


def would_contain(text: str, path: Path) -> bool:
    """Return whether a path is or lies in a local input, or in what its pattern matches now or would match later."""
    if "://" in text:
        return False
    folder, pattern = _divide(text)
    absolute, top = path.resolve(), Path(os.path.realpath(folder))
    if not absolute.is_relative_to(top):
        return False
    below = absolute.relative_to(top)
    return not pattern or any(fnmatch.fnmatch(str(part), pattern) for part in (below, *below.parents))


def _divide(text: str) -> tuple[str, str]:
    """The longest head of a path that exists, so that brackets in names are no pattern, and the rest."""
    path = Path(text)
    if os.path.lexists(path):
        return text, ""
    folder = next((str(parent) for parent in path.parents if parent.exists()), ".")
    return folder, str(path.relative_to(folder))


def _parts_of(root: str) -> Iterator[Part]:
    if root.startswith(tables.SCHEME):
        for name, file in tables.find_dataset_files(root).items():
            yield from _parts_of_file(file, name)
    elif "://" in root:
        yield from _parts_of_url(root)
    else:
        folder, pattern = _divide(root)
        for name in _matches(root, folder, pattern) if pattern else [""]:
            path = Path(folder, name)
            if not path.is_dir():
                yield from _parts_of_file(str(path), name or path.name)
                continue
            files = {file.relative_to(path).as_posix(): str(file) for file in sorted(_walk(path))}
            yield from _parts_below(str(path), name or path.resolve().name, files)


def _matches(text: str, folder: str, pattern: str) -> list[str]:
    """The files and folders in a folder that a pattern matches, sorted. Raise ValueError if there are none."""
    if not _WILDCARD.search(pattern):
        raise ValueError(f"{text}: no such file or folder")
    # Path.glob would find hidden files too.
    if matches := sorted(glob.glob(pattern, root_dir=folder, recursive=True)):  # noqa: PTH207
        return matches
    raise ValueError(f"{text}: no file or folder in {Path(folder).resolve()} matches this pattern")


def _parts_below(root: str, top: str, files: dict[str, str]) -> Iterator[Part]:
    """The parts of a folder; `files` are their paths or URLs by their name inside it."""
    kept = [name for name in files if not archive.is_hidden(PurePosixPath(name))]
    archive.warn_of_hidden(root, len(files) - len(kept))
    if not kept:
        raise ValueError(f"{root}: the folder holds no files")
    for name in kept:
        yield from _parts_of_file(files[name], str(PurePosixPath(top, name)))


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder. Unlike rglob, raises for a folder that cannot be listed and warns of linked folders."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: the folder cannot be listed: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        for name in folders:
            if (linked := Path(folder, name)).is_symlink():
                warnings.warn(f"{linked}: skipped, links to folders are not followed", stacklevel=2)
        yield from (Path(folder, name) for name in files)


def _parts_of_url(url: str) -> Iterator[Part]:
    try:
        system, path = fsspec.core.url_to_fs(url)
        # fsspec lists http "folders" by parsing pages for links; here an http URL is always a file.
        is_http = url.startswith("http")
        is_pattern = not is_http and "*" in path
        is_folder = not is_http and not is_pattern and retry(lambda: system.isdir(path))
        names = retry(lambda: system.glob(path) if is_pattern else system.find(path) if is_folder else [])
        top = path.partition("*")[0].rpartition("/")[0] if is_pattern else path
        files = {name.removeprefix(top).lstrip("/"): system.unstrip_protocol(name) for name in sorted(names)}
    except (*_READ_ERRORS, ValueError) as error:
        raise ValueError(f"{url}: cannot be opened: {error}") from error
    if is_pattern and not files:
        raise ValueError(f"{url}: no file matches this pattern")
    if is_pattern:
        for name, file in files.items():
            yield from _parts_of_file(file, name)
        return
    name = PurePosixPath(path.split("?")[0]).name
    yield from _parts_below(url, name, files) if is_folder else _parts_of_file(url, name)


def _parts_of_file(path: str, name: str) -> Iterator[Part]:
    for text in (path, name):  # they differ for linked folders
        if (shown := archive.encodable(text)) != text:
            raise ValueError(f"{shown}: the path is not UTF-8; rename the file or its folder")
    try:
        num_bytes, version = stat_file(path)
    except BadInput as error:
        yield Part(name, path, 0, "", fault=error.reason)
        return
    if num_bytes and (archive.is_zip(name) or archive.is_plain_tar(name)):
        yield from _members(path, name, version)
    else:
        yield _checked(Part(name, path, num_bytes, version))


def _members(path: str, name: str, version: str) -> Iterator[Part]:
    """The members of an archive, and a part with a fault in place of those that cannot be listed."""
    is_tar = archive.is_plain_tar(name)
    try:
        with open_remote(path) if "://" in path else Path(path).open("rb") as file:
            for held in archive.list_tar(file, path) if is_tar else archive.list_zip(file, path):
                member = None if is_tar else held.name
                part = Part(f"{name}/{held.name}", path, held.num_bytes, version, member, held.offset, held.fault)
                yield _checked(part)
    except BadInput as error:
        yield Part(name, path, 0, version, fault=error.reason)
    except _READ_ERRORS as error:
        # zipfile says "not a zip file" of a file that could not be read
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        fault = f"cannot be read as {PurePosixPath(name).suffix[1:]}, probably truncated: {reason}"
        if "://" in path and isinstance(reason, OSError):
            raise ValueError(f"{path}: {fault}") from error  # a server's fault, which may pass
        yield Part(name, path, 0, version, fault=fault)


def _checked(part: Part) -> Part:
    """The part, with a fault if it is empty though its kind never is."""
    if not part.fault and not part.num_bytes and is_packed(part.name):
        return replace(part, fault=_EMPTY)
    return replace(part, num_bytes=0) if part.fault else part


def stat_file(path: str) -> tuple[int, str]:
    """Return the current size in bytes and version of a file.

    Raises BadInput if it is no file, ValueError if a server does not report its size.
    """
    if "://" not in path:
        if not Path(path).is_file():
            raise BadInput(path, "a broken link or not a regular file")
        stat = Path(path).stat()
        return stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}"
    try:
        system, stripped = fsspec.core.url_to_fs(path)
        system.invalidate_cache()
        info = retry(lambda: call(system, "info", stripped))
    except (*_READ_ERRORS, ValueError) as error:
        raise ValueError(f"{path}: cannot be opened: {reason_of(error) or type(error).__name__}") from error
    if info.get("size") is None:
        raise ValueError(f"{path}: the server does not report its size; download the file first")
    return info["size"], " ".join(str(info[key]) for key in ("size", *_VERSION_KEYS) if key in info)
