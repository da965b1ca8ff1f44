import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning.shingles import NUM_BANDS, build_bands, hash_shingles

TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=30)


def reference(text: str) -> list[str]:
    return [text[start : start + 5] for start in range(max(len(text) - 4, 1))]


@settings(max_examples=100)
@given(st.lists(TEXT, min_size=1, max_size=8))
def test_hashes_are_equal_where_the_shingles_are(texts):
    hashes, offsets = hash_shingles(texts)
    shingles = [shingle for text in texts for shingle in reference(text)]
    assert offsets.tolist() == np.cumsum([0, *(len(reference(text)) for text in texts)]).tolist()
    assert len(hashes) == len(shingles)
    assert len(set(zip(hashes.tolist(), shingles, strict=True))) == len(set(hashes.tolist())) == len(set(shingles))


def test_bands_depend_on_the_text_alone():
    texts = ["天地玄黄宇宙洪荒", "日月盈昃辰宿列张", "短"]
    together = build_bands(*hash_shingles(texts))
    assert together.shape == (3, NUM_BANDS)
    for text, bands in zip(texts, together, strict=True):
        assert (build_bands(*hash_shingles([text]))[0] == bands).all()


@pytest.mark.parametrize(("edited", "least"), [(0.01, 0.99), (0.02, 0.90)])
def test_near_texts_share_a_band_and_others_do_not(edited, least):
    """The figures that 14 bands of 8 promise, on random texts of 600 characters of an alphabet of 3,000."""
    random = np.random.default_rng(5)
    codes = 0x4E00 + random.integers(3000, size=(400, 600))
    changed = np.where(random.random(codes.shape) < edited, 0x4E00 + random.integers(3000, size=codes.shape), codes)
    texts = ["".join(map(chr, row)) for row in np.concatenate([codes, changed]).tolist()]
    bands = build_bands(*hash_shingles(texts))
    found = (bands[:400] == bands[400:]).any(axis=1).mean()
    assert found >= least
    assert not (bands[:400] == np.roll(bands[400:], 1, axis=0)).any()
