"""Damage with a seed: of bytes, of JSON values, and the bounds of time and memory that reading it must keep."""

import json
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HANG_SECONDS = 20
MOST_MORE_BYTES = 3 << 30  # of address space: rows have room for 1 GiB set aside


class Hang(BaseException):
    """Not an Exception: the readers must not take it for a fault of the file."""


@contextmanager
def limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"no end after {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def limited_memory() -> Iterator[None]:
    """What claims to be huge meets a MemoryError here, instead of the machine's end."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MORE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    at, count = rng.randrange(len(data) + 1), rng.choice((1, 3, 512, 1024))
    return data[:at] + (bytes(count) if rng.random() < 0.5 else rng.randbytes(count)) + data[at:]


def delete(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 3, 512, 1024)) :] or b"\0"


def double(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.sample(range(len(data) + 1), 2))
    return data[:end] + data[start:end] + data[end:]


BYTE_MUTATIONS = (flip, truncate, insert, delete, double)

# Written as they are: some are no JSON values in Python, some no JSON at all, and all have been seen in files.
NUMBERS = ("-1", "0", "-0", "1.5", "3", "1e5", "2147483648", "-9223372036854775809", "18446744073709551616", "1e308",
           "-1e999", "NaN", "Infinity", "-Infinity", "9" * 400, "9" * 5000)  # fmt: skip
WORDS = ('""', '"x"', '"\\ud800"', '"\\u0000"', '"../../etc/passwd"', '"1"', '"NaN"', '"nan"', '"' + "x" * 9999 + '"')
TYPES = ("null", "true", "false", "[]", "{}", "[[]]", '{"": 0}', "[null]", '"text"', "7")
DEEP = ("[" * 100_000 + "]" * 100_000, '{"a":' * 5_000 + "0" + "}" * 5_000, "[" * 100_000)
_HOLE, _AGAIN = "\x01hole\x01", "\x01again"


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of everything below a JSON value; of long lists the first and last members."""
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = [(index, value[index]) for index in sorted({*range(min(3, len(value))), len(value) - 1} - {-1})]
    else:
        return
    for key, member in members:
        yield (*path, key)
        yield from _places(member, (*path, key))


def _chosen(data: bytes, rng: random.Random) -> tuple[Any, Any, Any]:
    """The whole, and the container and the key of a place in it."""
    whole = json.loads(data)
    *path, key = rng.choice(list(_places(whole)))
    container = whole
    for part in path:
        container = container[part]
    return whole, container, key


def _replaced(literals: tuple[str, ...]) -> Callable[[bytes, random.Random], bytes]:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        whole, container, key = _chosen(data, rng)
        container[key] = _HOLE
        return json.dumps(whole).replace(json.dumps(_HOLE), rng.choice(literals)).encode()

    return mutate


def _delete_key(data: bytes, rng: random.Random) -> bytes:
    whole, container, key = _chosen(data, rng)
    del container[key]
    return json.dumps(whole).encode()


def _double_key(data: bytes, rng: random.Random) -> bytes:
    """A key twice with two values, or a member of a list twice."""
    whole, container, key = _chosen(data, rng)
    if isinstance(container, list):
        container.insert(key, container[key])
        return json.dumps(whole).encode()
    container[key + _AGAIN] = rng.choice((None, 0, "x", [], {}, container[key]))
    return json.dumps(whole).replace(json.dumps(_AGAIN)[1:-1], "").encode()


def _rename_key(data: bytes, rng: random.Random) -> bytes:
    whole, container, key = _chosen(data, rng)
    if isinstance(container, list):
        container.reverse()
    else:
        container[rng.choice((key + "s", key.upper(), "", "\ud800", key[:-1]))] = container.pop(key)
    return json.dumps(whole).encode()


JSON_MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "number": _replaced(NUMBERS),
    "string": _replaced(WORDS),
    "type": _replaced(TYPES),
    "deep nesting": _replaced(DEEP),
    "key deleted": _delete_key,
    "key doubled": _double_key,
    "key renamed": _rename_key,
} | {f"bytes: {mutate.__name__}": mutate for mutate in BYTE_MUTATIONS}
