"""How a model's vectors are pooled is read from its own files, of every version of sentence-transformers."""

import json

import pytest

from pretrain.models.pooling import recorded_pooling


@pytest.mark.parametrize(
    ("values", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "first"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode": "cls", "embedding_dimension": 8}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_max_tokens": True}, "another way"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "another way"),
        ({"pooling_mode": ["mean", "max"]}, "another way"),
    ],
)
def test_poolings(tmp_path, values, pooling):
    assert recorded_pooling(tmp_path) is None
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(values))
    assert recorded_pooling(tmp_path) == pooling


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(text)
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json: not a configuration of pooling"):
        recorded_pooling(tmp_path)
