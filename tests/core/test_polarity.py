# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
import pytest
import torch

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.polarity import PolarityScout, polarity_facts, polarity_loss


def heads(count: int, dark: bool) -> torch.Tensor:
    """Balls whose core is bright (dark=True: as white matter on T1) or dark within their rim."""
    axes = [torch.linspace(-1, 1, n) for n in (40, 48, 14)]
    radius = sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")).sqrt()
    core, rim = (1.0, -1.0) if dark else (-1.0, 1.0)
    ball = torch.where(radius < 0.5, core, torch.where(radius < 0.9, rim, 0.0))
    return torch.stack([torch.stack([ball, ball.abs()]) * (0.7 + 0.1 * k) for k in range(count)])


@pytest.mark.parametrize("shape", [(101, 77, 26), (24, 24, 12), (16, 16, 3), (160, 200, 5)])
def test_the_thumbnail_is_torchs_adaptive_mean(shape: tuple[int, int, int]) -> None:
    image = torch.randn(2, 2, *shape)
    expected = torch.nn.functional.adaptive_avg_pool3d(image, (24, 24, 12)).flatten(1)
    assert torch.allclose(polarity_facts(image)[:, :-1], expected, atol=1e-5)


def test_new_weights_say_bright_and_a_known_sign_stays() -> None:
    scout, facts = PolarityScout(), polarity_facts(heads(2, dark=True))
    assert scout.sign(facts).tolist() == [[1.0], [1.0]]
    facts[1, -1] = -1
    assert scout.sign(facts).tolist() == [[1.0], [-1.0]]


def test_it_learns_from_a_thumbnail_and_does_not_mind_how_the_head_is_turned() -> None:
    torch.manual_seed(0)
    scout = PolarityScout()
    assert not any(p.requires_grad for p in scout.parameters())
    scout.learn()
    facts = polarity_facts(torch.cat([heads(3, dark=True), heads(3, dark=False)]))
    dark = torch.tensor([1.0, 1, 1, 0, 0, 0])
    optimizer = torch.optim.Adam(scout.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        polarity_loss(scout.dark_logit(facts)[:, 0], dark).backward()
        optimizer.step()
    unseen = polarity_facts(torch.cat([heads(1, dark=True), heads(1, dark=False)]) * 1.3)
    assert scout.sign(unseen).flatten().tolist() == [-1.0, 1.0]
    mirrored = polarity_facts(torch.cat([heads(1, dark=True), heads(1, dark=False)]).flip(2) * 1.3)
    assert torch.allclose(scout.dark_logit(unseen), scout.dark_logit(mirrored), atol=1e-5)


def test_what_nothing_tells_costs_nothing() -> None:
    logit = torch.tensor([3.0, -2.0])
    assert polarity_loss(logit, torch.tensor([-1.0, -1.0])).item() == 0
    assert polarity_loss(logit, torch.tensor([1.0, -1.0])).item() == pytest.approx(
        torch.nn.functional.softplus(torch.tensor(-3.0)).item()
    )


def test_a_dark_lesion_is_read_inverted_and_the_fused_volume_keeps_the_mri(net: RoiFusionNet) -> None:
    """The features are those of the inverted MRI; what is composed is the MRI itself."""
    torch.manual_seed(0)
    image = torch.randn(1, 2, 16, 16, 4)
    bright = net.describe(image)
    inverted = torch.cat([bright[:, :-1], -bright[:, -1:]], dim=1)
    first = net.encode(image, inverted)
    second = net.encode(torch.cat([-image[:, :1], image[:, 1:]], dim=1), bright)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
