from __future__ import annotations

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.losses import MULTICLASS_MODE, LovaszLoss
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from trainables.recipe.recipe import Loss
from trainables.training.losses import build_loss, inverse_sqrt_weights, lovasz_softmax

K = 4
NAMES = ["cross_entropy", "focal", "dice", "lovasz", "ce_dice", "ce_lovasz"]
PIXELS = np.array([1600, 400, 100, 0])


def _batch(seed=0, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, K, 8, 9, generator=generator).requires_grad_()
    label = torch.randint(0, K - 1, (3, 8, 9), generator=generator)  # class 3 is absent
    label[torch.rand(3, 8, 9, generator=generator) < ignored] = 255
    return logits, label


def _kept(logits, label):  # (P,K) probabilities, (P,)
    keep = label != 255
    return logits.softmax(1).permute(0, 2, 3, 1)[keep], label[keep]


def _dice(logits, label):
    prob, true = _kept(logits, label)
    hot = F.one_hot(true, K).float()
    scores = 2 * (prob * hot).sum(0) / (prob.sum(0) + hot.sum(0))
    return ((1 - scores) * (hot.sum(0) > 0)).mean()


def _lovasz(logits, label):  # by the definition: the sum over thresholds of the Jaccard loss's growth
    prob, true = _kept(logits, label)
    losses = []
    for k in true.unique().tolist():
        fg = (true == k).float()
        errors = (fg - prob[:, k]).abs()
        order = errors.argsort(descending=True)
        total, before = torch.zeros(()), 0.0
        for i, p in enumerate(order):
            wrong = order[: i + 1]
            miss, extra = fg[wrong].sum(), (1 - fg[wrong]).sum()
            jaccard = 1 - (fg.sum() - miss) / (fg.sum() + extra)
            total, before = total + errors[p] * (jaccard - before), jaccard
        losses.append(total)
    return torch.stack(losses).mean()


ORACLES = {
    "cross_entropy": lambda x, y: F.cross_entropy(x, y, ignore_index=255),
    "focal": lambda x, y: softmax_focal_loss_with_logits(_kept(x, y)[0].log(), _kept(x, y)[1]),
    "dice": _dice,
    "lovasz": _lovasz,
    "ce_dice": lambda x, y: F.cross_entropy(x, y, ignore_index=255) + _dice(x, y),
    "ce_lovasz": lambda x, y: F.cross_entropy(x, y, ignore_index=255) + _lovasz(x, y),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_loss_equals_its_formula(name, ignored):
    logits, label = _batch(ignored=ignored)
    torch.testing.assert_close(build_loss(Loss(name=name), K)(logits, label), ORACLES[name](logits, label))


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_get_no_gradient(name):
    logits, label = _batch()
    build_loss(Loss(name=name), K)(logits, label).backward()
    ignored = (label == 255)[:, None].expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().max() > 0


WEIGHTED = [(name, "inverse_sqrt") for name in NAMES if name not in {"dice", "lovasz"}]


@pytest.mark.parametrize(("name", "weights"), [*((name, "none") for name in NAMES), *WEIGHTED])
def test_all_ignored_is_zero_with_a_gradient(name, weights):
    logits, label = _batch(ignored=1.1)
    loss = build_loss(Loss(name=name, class_weights=weights), K, PIXELS)(logits, label)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_give_a_float32_loss(name):
    logits, label = _batch()
    loss = build_loss(Loss(name=name), K)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(logits.to(torch.bfloat16), label)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(logits, label), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_lovasz_of_all_classes_at_once_is_smps_of_one_after_the_other(ignored):
    logits, label = _batch(ignored=ignored)
    own = lovasz_softmax(logits.softmax(1), label, 255)
    [mine] = torch.autograd.grad(own, logits)
    smps = LovaszLoss(MULTICLASS_MODE, ignore_index=255)(logits, label)
    [expected] = torch.autograd.grad(smps, logits)
    torch.testing.assert_close(own, smps, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(mine, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ce_lovasz"])
def test_no_value_is_read_back_from_the_device(name):
    """Fake tensors have none. (On a CPU, not on a GPU, smp's Dice looks whether its labels are in range.)"""
    with FakeTensorMode():
        found = build_loss(Loss(name=name), K)(torch.empty(2, K, 8, 9), torch.empty(2, 8, 9, dtype=torch.int64))
    assert found.shape == ()


def test_inverse_sqrt_weights():
    weights = inverse_sqrt_weights(PIXELS)
    np.testing.assert_allclose(weights, np.array([1 / 40, 1 / 20, 1 / 10, 0]) / (7 / 40 / 3), rtol=1e-6)
    assert weights[PIXELS > 0].mean() == pytest.approx(1)


def test_weighted_cross_entropy_equals_torch():
    logits, label = _batch()
    loss = build_loss(Loss(class_weights="inverse_sqrt"), K, PIXELS)
    wanted = F.cross_entropy(logits, label, weight=torch.from_numpy(inverse_sqrt_weights(PIXELS)), ignore_index=255)
    torch.testing.assert_close(loss(logits, label), wanted)


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_weights_on_a_loss_that_cannot_use_them_are_an_error(name):
    with pytest.raises(ValueError, match=f"use none, or ce_{name}"):
        Loss(name=name, class_weights="inverse_sqrt")


@pytest.mark.parametrize("cfg", [Loss(), Loss(name="focal", class_weights="inverse_sqrt")])
def test_parts_of_micro_batches_sum_to_the_batch(cfg):
    logits, label = _batch()
    label[0] = 255  # one micro-batch without a pixel that counts
    loss = build_loss(cfg, K, PIXELS)
    parts = [loss(logits[i : i + 1], label[i : i + 1], whole=loss.weight(label)) for i in range(3)]
    torch.testing.assert_close(torch.stack(parts).sum(), loss(logits, label))
