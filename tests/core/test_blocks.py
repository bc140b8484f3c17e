# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import torch
import torch.nn.functional as F

from roi_fusion.core.blocks import FULL, Block, Pyramid, double_plane, fold_plane, unfold_plane


def test_folding_is_pytorchs_pixel_unshuffle_in_each_slice_and_unfolds_again() -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    folded = fold_plane(x)
    assert folded.shape == (2, 12, 4, 3, 4)
    slices = x.movedim(2, 1).flatten(0, 1)  # [B·Z, C, X, Y]
    expected = F.pixel_unshuffle(slices, 2).unflatten(0, (2, 4)).movedim(1, 2)  # [B, C·4, Z, X/2, Y/2]
    ordered = folded.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)  # PyTorch counts the channel first
    assert torch.equal(ordered, expected)
    assert torch.equal(unfold_plane(folded), x)


def test_doubling_repeats_voxels_in_plane() -> None:
    x = torch.randn(1, 2, 3, 4, 5)
    assert torch.equal(double_plane(x), x.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_a_new_block_passes_its_input_on_but_for_a_bias() -> None:
    x, block = torch.randn(1, 8, 3, 6, 6), Block(8, 8, FULL, 16)
    assert torch.allclose(block(x, torch.randn(1, 16)), x + block.conv2.bias.view(1, 8, 1, 1, 1))
    assert Block(8, 4, FULL, 16)(x, torch.randn(1, 16)).shape == (1, 4, 3, 6, 6)


def test_the_pyramid_returns_its_three_finest_levels() -> None:
    features = Pyramid(3, [4, 6, 8, 10], 16)(torch.randn(1, 3, 3, 32, 48), torch.randn(1, 16))
    assert [tuple(f.shape) for f in features] == [(1, 4, 3, 16, 24), (1, 6, 3, 8, 12), (1, 8, 3, 4, 6)]
