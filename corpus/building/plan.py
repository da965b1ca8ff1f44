"""The plan of a build: which inputs are read in which unit of work. It is fixed before any unit runs.

A unit is 16 to 64 MiB of one source: several small parts, or a range of a large one, which is split between documents.
Parts that cannot be split are in one unit as a whole. A plan depends only on the inputs and the configuration. Where a
unit of small parts ends depends on their names alone, so that another part changes the units near it and no others.
"""

import json
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import xxhash

from corpus.config import BuildConfig, SourceConfig, StrictModel
from corpus.durable import write_durably
from corpus.reading.formats import boundary
from corpus.reading.parts import Part
from corpus.reading.streams import read_stored
from corpus.shards.manifest import TokenizerRecord
from corpus.source import find_inputs, is_splittable

UNIT_BYTES = 64 << 20
_LARGE_BYTES = 1 << 30  # parts that cannot be split and are larger delay a build: warn
FILE_NAME = "plan.jsonl"
# Raise it when the results of units change: results of other versions are not reused.
_FORMAT_VERSION = 7


class Segment(StrictModel):
    """Bytes `start` to `end` of a part as stored; only whole documents."""

    part: Part
    start: int
    end: int


class Unit(StrictModel):
    """A unit of work: segments, in order, of the source of index `source`."""

    source: int
    segments: tuple[Segment, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the unit as stored."""
        return sum(segment.end - segment.start for segment in self.segments)


class Plan(StrictModel):
    """The plan of a build.

    Attributes:
        units: in the order of the corpus.
        tests: the files of each test set in `config.decontamination`.
        fast_tokenizing: whether the fast path is used; false for the whole build once it was found to differ from the
            tokenizer.
    """

    config: BuildConfig
    tokenizer: TokenizerRecord
    units: tuple[Unit, ...]
    tests: tuple[tuple[Segment, ...], ...]
    fast_tokenizing: bool = True

    def key(self, index: int) -> str:
        """Return a hash of all that determines the documents of a unit: its bytes, the source, what is dropped."""
        unit = self.units[index]
        settings = self.config.model_dump(mode="json", include={"near_duplicates", "decontamination"})
        # What is skipped or not does not change what can be read.
        source = self.config.sources[unit.source].model_dump(mode="json", exclude={"inputs", "on_bad_input"})
        tests = [[segment.model_dump(mode="json") for segment in test] for test in self.tests]
        state = [_FORMAT_VERSION, settings, source, unit.model_dump(mode="json", exclude={"source"}), tests]
        return xxhash.xxh3_128_hexdigest(json.dumps(state).encode())


def build_plan(config: BuildConfig, tokenizer: TokenizerRecord) -> Plan:
    """Find all inputs and divide them into units. Raise ValueError for inputs that cannot be used."""
    units = [
        Unit(source=index, segments=segments)
        for index, source in enumerate(config.sources)
        for segments in _grouped(_segments(source))
    ]
    tests = tuple(tuple(_segments(source)) for source in config.decontamination)
    return Plan(config=config, tokenizer=tokenizer, units=tuple(units), tests=tests)


def _segments(source: SourceConfig) -> Iterator[Segment]:
    parts = find_inputs(source)
    ends = boundary(source.format, source.encoding)
    large = []
    for part in parts:
        is_cut = ends is not None and part.num_bytes > UNIT_BYTES and is_splittable(source, part)
        cuts = [0, *(_cuts(part, ends) if ends and is_cut else ()), part.num_bytes]
        large += [part] if not is_cut and part.num_bytes > _LARGE_BYTES else []
        for start, end in pairwise(cuts):
            yield Segment(part=part, start=start, end=end)
    _warn_of_large(source, large)


def _warn_of_large(source: SourceConfig, large: list[Part]) -> None:
    if large:
        largest = max(large, key=lambda part: part.num_bytes)
        warnings.warn(
            f"{source.name}: inputs above 1 GiB that cannot be split: {len(large)}, the largest {largest.name} with "
            f"{largest.num_bytes / 1e9:.1f} GB; each is read by one core and from its beginning after a stop: "
            "split or unpack them to use more cores",
            stacklevel=2,
        )


def _cuts(part: Part, boundary: re.Pattern[bytes]) -> Iterator[int]:
    """Where to split: the end of a document after every UNIT_BYTES. The last piece has about half of that at least."""
    last = 0
    for wanted in range(UNIT_BYTES, part.num_bytes - UNIT_BYTES // 2, UNIT_BYTES):
        cut = _next_boundary(part, boundary, wanted) if wanted > last else None
        # The rest must contain a boundary too: the reader takes text without one for a wrong format.
        if cut and _next_boundary(part, boundary, cut + 1):
            yield cut
            last = cut


def _next_boundary(part: Part, boundary: re.Pattern[bytes], wanted: int) -> int | None:
    """The end of the document at `wanted`; None if that is more than UNIT_BYTES further on."""
    # A boundary that ends exactly at `wanted` begins before it.
    start = wanted - 1
    limit = min(wanted + UNIT_BYTES, part.num_bytes)
    num_bytes = 64 << 10
    end = start
    while end < limit:
        end = min(start + num_bytes, limit)
        if found := boundary.search(b"".join(read_stored(part, start, end))):
            return start + found.end()
        num_bytes *= 4
    return None


def _grouped(segments: Iterable[Segment]) -> Iterator[tuple[Segment, ...]]:
    group: list[Segment] = []
    num_bytes, least = 0, UNIT_BYTES // 4
    for segment in segments:
        size = segment.end - segment.start
        # By chance, once in so many bytes, but for the same parts always
        begins = xxhash.xxh3_64_intdigest(segment.part.name.encode()) * least < size << 64
        if group and (num_bytes + size > UNIT_BYTES or (num_bytes >= least and begins)):
            yield tuple(group)
            group, num_bytes = [], 0
        group.append(segment)
        num_bytes += size
    if group:
        yield tuple(group)


class _Head(StrictModel):
    """The first line of plan.jsonl: the plan without its units, and the bytes of each unit's line."""

    plan: Plan
    unit_bytes: tuple[int, ...]


def save_plan(plan: Plan, folder: Path) -> None:
    """Write plan.jsonl atomically, unless the file holds the same plan."""
    units = [unit.model_dump_json().encode() + b"\n" for unit in plan.units]
    head = _Head(plan=plan.model_copy(update={"units": ()}), unit_bytes=tuple(map(len, units)))
    data = b"".join([head.model_dump_json().encode(), b"\n", *units])
    file = folder / FILE_NAME
    if not file.is_file() or file.read_bytes() != data:
        write_durably(file, data)


def load_plan(folder: Path, only: Collection[int] | None = None) -> Plan:
    """Load the plan of a work folder. Raise ValueError if there is none.

    Args:
        only: indices of units to load; the others get no segments. A worker needs one unit at a time, and a plan takes
            1.5 KB for each input file.
    """
    try:
        with (folder / FILE_NAME).open("rb") as file:
            head = _Head.model_validate_json(file.readline())
            units = [Unit(source=0, segments=())] * len(head.unit_bytes)
            start, starts = file.tell(), [0, *accumulate(head.unit_bytes)]
            for index in range(len(units)) if only is None else only:
                file.seek(start + starts[index])
                units[index] = Unit.model_validate_json(file.read(head.unit_bytes[index]))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / FILE_NAME}: is not the plan of a build; make one with --plan") from error
    return head.plan.model_copy(update={"units": tuple(units)})
