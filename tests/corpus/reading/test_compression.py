import bz2
import gzip
import lzma

import pytest
import zstandard

from corpus.reading import compression
from corpus.reading.compression import INFLATE_ERRORS, inflate

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
TEXT = "".join(f"第{index}行 {index * index}\n" for index in range(3000)).encode()


def pieces(data, size=1000):
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_frames_and_padding_at_any_boundary(suffix, size):
    data = COMPRESS[suffix](b"one\n") + COMPRESS[suffix](b"two\n") + b"\0" * 100
    assert b"".join(inflate(pieces(data, size), f"a{suffix}")) == b"one\ntwo\n"


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kept", [1, 0.3, 0.9, -9, -1])
def test_truncation_is_found_at_every_byte(suffix, kept):
    data = COMPRESS[suffix](TEXT)
    with pytest.raises(INFLATE_ERRORS):
        list(inflate(pieces(data[: int(len(data) * kept) if isinstance(kept, float) else kept]), f"a{suffix}"))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_zip_bomb_is_refused_while_it_inflates(suffix, monkeypatch):
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 20)
    bomb = COMPRESS[suffix](bytes(30 << 20))
    seen = 0
    with pytest.raises(ValueError, match=rf"a\{suffix}: inflates to more than 200 times its size; no text does"):
        for data in inflate(pieces(bomb, compression.CHUNK_BYTES), f"a{suffix}"):
            seen += len(data)
    assert seen < 25 << 20
