# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pieces give what the whole gives, for odd sizes and any size of piece."""

from __future__ import annotations

import pytest
import torch

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.tiles import encode_in_slabs, tile_decoder, tiles_of


@pytest.fixture(scope="module", params=[(8, 12, 16, 16), (4, 6, 8, 8, 8)], ids=["four levels", "five levels"])
def net(request: pytest.FixtureRequest) -> RoiFusionNet:
    torch.manual_seed(0)
    net = RoiFusionNet(channels=request.param, denoiser_channels=(4, 6, 8), detail_channels=4).eval()
    for parameter in net.parameters():  # zero-initialised layers would hide faults
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize(
    ("shape", "size"), [((150, 113, 17), (144, 112, 16)), ((250, 40, 3), (112, 320, 40)), ((40, 50, 33), (16, 32, 14))]
)
@torch.inference_mode()
def test_pieces_give_what_the_whole_gives(net: RoiFusionNet, shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    image, state, t = torch.randn(1, 2, *shape), torch.randn(1, 2, *shape), torch.tensor([700.0])
    description = net.describe(image)
    features = net.encode(image, description)
    whole = net.decode(features, state, t)
    slabs = encode_in_slabs(net, image, description, max_voxels=shape[0] * shape[1] * 4)
    for ours, theirs in zip(slabs, features):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(tile_decoder(net, slabs, shape, size)(state, t), whole, atol=1e-3 * float(whole.abs().max()))


def test_margins_are_needed(net: RoiFusionNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """With narrower margins the result differs: the margins are no wider than they must be by more than the grid's unit."""
    torch.manual_seed(1)
    shape = (150, 60, 24)
    image, state, t = torch.randn(1, 2, *shape), torch.randn(1, 2, *shape), torch.tensor([700.0])
    with torch.inference_mode():
        features = net.encode(image, net.describe(image))
        whole = net.decode(features, state, t)
        monkeypatch.setattr(net, "decode_margin", (0, 0, 4))
        assert not torch.allclose(tile_decoder(net, features, shape, (64, 64, 12))(state, t), whole, atol=1e-3)


def test_tiles_cover_every_voxel_once_and_start_on_the_grid() -> None:
    for shape, size in (((202, 238, 26), (160, 160, 16)), ((30, 500, 1), (112, 112, 13))):
        count = torch.zeros(shape)
        for tile in tiles_of(shape, size, (48, 48, 6), (16, 16, 1)):
            count[tile.inner] += 1
            assert all(o.start % 16 == 0 for o in tile.outer[:2])
            assert count[tile.outer][tile.within].shape == count[tile.inner].shape
        assert (count == 1).all()
