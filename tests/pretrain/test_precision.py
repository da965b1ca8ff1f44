"""Losses in float32: what a GPU may do of their products, and that nothing is left switched over."""

import pytest
import torch

from pretrain.precision import float32_inside


@pytest.mark.parametrize(
    ("device_type", "autocast", "inside"),
    [("cuda", True, "high"), ("cuda", False, "highest"), ("cpu", True, "highest")],
)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_products_are_tf32_where_bfloat16_was_allowed(device_type, autocast, inside):
    torch.set_autocast_enabled(device_type, autocast)
    try:
        with pytest.raises(KeyError), float32_inside(device_type):
            assert torch.get_float32_matmul_precision() == inside
            assert not torch.is_autocast_enabled(device_type)
            raise KeyError
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.is_autocast_enabled(device_type) == autocast
    finally:
        torch.set_autocast_enabled(device_type, False)
