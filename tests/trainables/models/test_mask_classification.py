"""Scores as logits: what a softmax makes of them is the normalised score, in every form in which they are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.logits.quantise import decode, encode
from trainables.models.heads.mask_classification import log_scores

NUM_CLASSES = 4


def said(seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Class logits (1,7,5), mask logits (1,7,6,8)."""
    generator = torch.Generator().manual_seed(seed)
    classes = spread * torch.randn(1, 7, NUM_CLASSES + 1, generator=generator)
    return classes, spread * torch.randn(1, 7, 6, 8, generator=generator)


def scores(classes: Tensor, masks: Tensor) -> Tensor:
    """sum_q p_q(k) sigmoid(m_q), (1,K,h,w), by loops over queries and classes, in float64."""
    total = torch.zeros(1, NUM_CLASSES, *masks.shape[2:], dtype=torch.float64)
    for q in range(classes.shape[1]):
        chance = classes[0, q].double().softmax(0)
        for k in range(NUM_CLASSES):
            total[0, k] += chance[k] * masks[0, q].double().sigmoid()
    return total


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
def test_logs_keep_the_labels_and_a_softmax_gives_the_normalised_score(spread: float) -> None:
    classes, masks = said(0, spread)
    expected, found = scores(classes, masks), log_scores(classes, masks)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(
        found.softmax(1).double(), expected / expected.sum(1, keepdim=True), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("form", ["float16", "uint8"])
def test_a_soft_vote_of_kept_scores_is_that_of_the_scores(form: str) -> None:
    kept, exact = [], []
    for seed in range(3):
        one = scores(*said(seed))
        exact.append(one / one.sum(1, keepdim=True))
        logits = log_scores(*said(seed))[0].half().numpy()
        kept.append(torch.from_numpy(logits if form == "float16" else decode(*encode(logits))).float().softmax(0))
    vote, expected = torch.stack(kept).mean(0), torch.cat(exact).mean(0)
    assert float((vote - expected).abs().max()) < (1e-3 if form == "float16" else 5e-3)
    top = expected.topk(2, dim=0).values
    clear = (top[0] - top[1]) > 1e-2  # no tie within what eight bits may move
    assert clear.float().mean() > 0.8
    assert torch.equal(vote.argmax(0)[clear], expected.argmax(0)[clear])


def test_pixels_that_no_query_wants_keep_their_order() -> None:
    classes, masks = said(1)
    far = log_scores(classes, masks - 200)  # sigmoid(-200) is 0 in float32
    relative = scores(classes, (masks.double() - 30))
    assert torch.equal(far.argmax(1), relative.argmax(1))
    nobody = torch.tensor([0.0] * NUM_CLASSES + [200.0]).expand(1, 7, -1)
    for found in (far, log_scores(nobody, masks)):
        assert found.isfinite().all()
        assert np.isfinite(found.half().numpy()).all()
        torch.testing.assert_close(found.exp().sum(1), torch.ones(1, 6, 8))
