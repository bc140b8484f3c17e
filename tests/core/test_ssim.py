# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, gaussian_filter
from skimage.metrics import structural_similarity

from roi_fusion.core.ssim import FixedReferenceSsim, _Window, gaussian_window, ssim_map


def test_ordinary_windows_equal_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for shape in ((40, 33), (11, 50), (256, 240)):
        a = rng.random(shape)
        b = a + 0.2 * rng.random(shape)
        ours = ssim_map(torch.tensor(a)[None, None], torch.tensor(b)[None, None], data_range=1.3)[0, 0].numpy()
        _, theirs = structural_similarity(
            a, b, data_range=1.3, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def brute_force(a: np.ndarray, b: np.ndarray, roi: np.ndarray, data_range: float) -> np.ndarray:
    """Normalised convolution of one slice by SciPy."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x, taps, 0, mode="constant"), taps, 1, mode="constant")

    mass = np.maximum(blur(roi), 1e-12)
    mean = lambda x: blur(x * roi) / mass  # noqa: E731
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


@pytest.mark.parametrize("shape", [(2, 1, 20, 30, 4), (1, 1, 7, 5, 3), (2, 1, 33, 18)])
def test_regional_windows_equal_a_brute_force_normalised_convolution(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    roi = torch.rand(shape, generator=generator) > 0.6
    ours = ssim_map(a, b, roi, data_range=0.9)
    a, b, roi_f, ours = (x if x.ndim == 5 else x[..., None] for x in (a, b, roi.double(), ours))
    for i in range(a.shape[0]):
        for k in range(a.shape[-1]):
            planes = [x[i, 0, :, :, k].numpy() for x in (a, b, roi_f)]
            inside = planes[2] > 0
            np.testing.assert_allclose(ours[i, 0, :, :, k].numpy()[inside], brute_force(*planes, 0.9)[inside], atol=1e-8)


def test_fixed_references_give_the_same_map() -> None:
    generator = torch.Generator().manual_seed(2)
    image, first, second = (torch.rand(1, 1, 19, 26, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    found = FixedReferenceSsim(torch.cat([first, second], dim=1), data_range=0.8)(image)
    for channel, reference in enumerate((first, second)):
        assert torch.allclose(found[:, channel : channel + 1], ssim_map(image, reference, data_range=0.8), atol=1e-8)


def test_the_slope_is_the_gradient_of_the_weighted_sum_by_autograd() -> None:
    generator = torch.Generator().manual_seed(3)
    image, first, second = (torch.rand(1, 1, 21, 17, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    image[:, :, 14:] = 0.3  # windows without variance
    weights = torch.rand(1, 2, 21, 17, 2, generator=generator, dtype=torch.float64)
    ssim = FixedReferenceSsim(torch.cat([first, second], dim=1))
    leaf = image.clone().requires_grad_(True)
    expected = (ssim(leaf) * weights).sum()
    expected.backward()
    value, gradient, curvature = ssim.slope(image, weights)
    assert torch.allclose(value, expected, atol=1e-10)
    assert leaf.grad is not None
    assert torch.allclose(gradient, leaf.grad, atol=1e-7 * float(leaf.grad.abs().max()))
    assert (curvature > 0).all()


def test_a_gradient_over_its_curvature_leads_to_the_reference_in_a_few_steps() -> None:
    """Where plain steps of one length would crawl: contrast differs by a factor of 30 within the image."""
    generator = torch.Generator().manual_seed(4)
    reference = 0.5 + 0.01 * torch.randn(1, 1, 40, 40, 1, generator=generator, dtype=torch.float64)
    reference[:, :, 20:] += 0.3 * torch.randn(1, 1, 20, 40, 1, generator=generator, dtype=torch.float64)
    ssim, weights = FixedReferenceSsim(reference), torch.ones_like(reference)
    image = torch.full_like(reference, 0.5)
    values = []
    for _ in range(12):
        value, gradient, curvature = ssim.slope(image, weights)
        values.append(float(value) / weights.numel())
        image = image + gradient / curvature
    assert values == sorted(values)
    assert values[0] < 0.5
    assert values[-1] > 0.97


def test_what_lies_outside_the_region_cannot_change_a_value_inside() -> None:
    a = torch.rand(1, 1, 24, 24, 2)
    roi = torch.zeros_like(a)
    roi[:, :, 6:15, 5:17] = 1
    b = a.clone()
    b[roi == 0] = 1e3 * torch.rand(int((roi == 0).sum()))
    assert torch.allclose(ssim_map(a, b, roi)[roi > 0], torch.ones(1), atol=1e-5)


def test_it_is_differentiable() -> None:
    a = torch.rand(1, 1, 16, 16, 2, requires_grad=True)
    roi = torch.zeros(1, 1, 16, 16, 2)
    roi[:, :, 4:12, 4:12] = 1
    (ssim_map(a, torch.rand(1, 1, 16, 16, 2), roi) * roi).sum().backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    assert a.grad[roi > 0].abs().max() > 0
    assert a.grad[roi == 0].abs().max() == 0


@pytest.mark.parametrize(("size", "sigma", "word"), [(10, 1.5, "window_size"), (0, 1.5, "window_size"), (11, 0.0, "sigma")])
def test_a_bad_window_is_refused(size: int, sigma: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        gaussian_window(size, sigma, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("size", [(7, 60), (49, 48), (130, 97)])
def test_banded_products_equal_scipy_and_their_gradient_is_exact(size: tuple[int, int]) -> None:
    image = torch.randn(2, *size, dtype=torch.float64, requires_grad=True)
    window = _Window(image, 11, 1.5, reflect=True)
    expected = gaussian_filter(image.detach().numpy(), (0, 1.5, 1.5), truncate=5 / 1.5, mode="reflect")
    np.testing.assert_allclose(window(image).detach().numpy(), expected, atol=1e-10)
    if size[0] < 10:
        assert torch.autograd.gradcheck(window, (image,))
