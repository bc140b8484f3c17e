# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
import numpy as np
import pytest
import torch
from skimage.measure import block_reduce

from roi_fusion.core.reading import pool_to_reading, reading_factors, spread_from_reading


@pytest.mark.parametrize(
    ("spacing_mm", "factors"),
    [
        ((0.43, 0.43, 5.0), (5, 5, 1)),
        ((1.0, 1.0, 1.0), (2, 2, 2)),
        ((1.4, 1.4, 6.0), (1, 1, 1)),
        ((5.0, 0.9, 0.9), (1, 2, 2)),
        ((1.8, 1.8, 6.0), (1, 1, 1)),
    ],
)
def test_what_is_finer_than_two_millimetres_is_joined(
    spacing_mm: tuple[float, float, float], factors: tuple[int, int, int]
) -> None:
    assert reading_factors(spacing_mm) == factors
    for spacing, factor in zip(spacing_mm, factors):
        assert spacing >= 2.0 or 1.3 < spacing * factor < 2.7


def test_a_small_volume_is_not_joined_to_less_than_eight_voxels() -> None:
    assert reading_factors((0.5, 0.5, 0.5), (64, 20, 3)) == (4, 2, 1)


def test_blocks_are_means_as_scikit_image_has_them() -> None:
    volume = torch.rand(1, 2, 12, 8, 6) + 0.1
    pooled = pool_to_reading(volume, (3, 2, 1))
    expected = block_reduce(volume.numpy(), (1, 1, 3, 2, 1), np.mean)
    assert np.allclose(pooled, expected, atol=1e-6)
    assert pool_to_reading(volume, (1, 1, 1)) is volume


def test_a_block_at_the_edge_of_what_is_shown_keeps_its_brightness() -> None:
    volume = torch.zeros(1, 1, 8, 8, 1)
    volume[:, :, :3] = 4.0  # three of four voxels of the first block, none of the second
    assert pool_to_reading(volume, (4, 4, 1))[0, 0, :, 0, 0].tolist() == [4.0, 0.0]
    volume[:, :, 2:] = 0.0  # half
    assert not pool_to_reading(volume, (4, 4, 1)).any()


@pytest.mark.parametrize("shape", [(37, 41, 5), (64, 48, 12)])
def test_what_is_spread_lies_where_it_was(shape: tuple[int, int, int]) -> None:
    """A smooth hill keeps its place and height to the scanner's voxel."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    hill = torch.exp(-2 * sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")))[None, None] + 0.1
    back = spread_from_reading(pool_to_reading(hill, (4, 4, 1)), (4, 4, 1), shape)
    assert back.shape == hill.shape
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert float((back - hill)[inner].abs().max()) < 0.06
    assert spread_from_reading(hill, (1, 1, 1), shape) is hill
