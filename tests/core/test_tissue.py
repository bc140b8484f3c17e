# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
import pytest
import torch

from roi_fusion.core.tissue import TISSUE_CLASSES, TissueHead, tissue_loss


def test_the_head_reads_every_voxel_from_features_of_half_the_resolution() -> None:
    logits = TissueHead(8)(torch.randn(2, 8, 3, 10, 12), (19, 24))
    assert logits.shape == (2, len(TISSUE_CLASSES), 19, 24, 3)


def test_a_sure_and_right_answer_costs_nothing_and_a_wrong_one_much() -> None:
    tissue = torch.randint(0, 5, (1, 1, 6, 6, 2))
    label, head = torch.zeros_like(tissue), torch.ones_like(tissue)
    right = 20.0 * torch.nn.functional.one_hot(tissue[:, 0], 5).permute(0, 4, 1, 2, 3).float()
    assert tissue_loss(right, tissue, label, head) < 1e-6
    assert tissue_loss(-right, tissue, label, head) > 5
    even = tissue_loss(torch.zeros_like(right), tissue, label, head)
    assert even.item() == pytest.approx(torch.log(torch.tensor(5.0)).item(), rel=1e-5)


def test_lesion_and_what_is_not_shown_do_not_count() -> None:
    tissue = torch.ones(1, 1, 4, 4, 1, dtype=torch.uint8)
    label, head = torch.zeros(1, 1, 4, 4, 1), torch.ones(1, 1, 4, 4, 1)
    label[:, :, :2], head[:, :, 2:] = 1, 0
    logits = torch.randn(1, 5, 4, 4, 1, requires_grad=True)
    loss = tissue_loss(logits, tissue, label, head)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
