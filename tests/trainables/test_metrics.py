from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from trainables.metrics import confusion, confusion_torch, iou, miou


def _bincount(true, pred, k, ignore):
    keep = true != ignore
    return np.bincount(true[keep].astype(int) * k + pred[keep], minlength=k * k).reshape(k, k)


def _maps(rng, k, shape, ignore, blocky):
    true = rng.integers(0, k, shape, dtype=np.uint8)
    pred = rng.integers(0, k, shape, dtype=np.uint8)
    if blocky:
        true, pred = (np.repeat(a, 13, axis=-1)[..., : shape[-1]] for a in (true, pred))
    return np.where(rng.random(shape) < 0.1, np.uint8(ignore), true), pred


@pytest.mark.parametrize("k", [1, 2, 11, 151, 255])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 17), (64, 64)])
@pytest.mark.parametrize("blocky", [False, True])
def test_counts_equal_bincount(k, shape, blocky):
    true, pred = _maps(np.random.default_rng(k), k, shape, 255, blocky)
    wanted = _bincount(true, pred, k, 255)
    np.testing.assert_array_equal(confusion(true, pred, k), wanted)
    np.testing.assert_array_equal(confusion_torch(torch.from_numpy(true), torch.from_numpy(pred), k).numpy(), wanted)


@pytest.mark.parametrize("ignore", [0, 3, 200])
def test_any_label_can_be_the_ignored_one(ignore):
    true, pred = _maps(np.random.default_rng(0), 5, (40, 40), ignore, blocky=True)
    wanted = _bincount(true, pred, 5, ignore)
    np.testing.assert_array_equal(confusion(true, pred, 5, ignore), wanted)
    np.testing.assert_array_equal(
        confusion_torch(torch.from_numpy(true), torch.from_numpy(pred), 5, ignore).numpy(), wanted
    )


def test_views_and_unaligned_maps_count_the_same():
    true, pred = _maps(np.random.default_rng(1), 4, (33, 65), 255, blocky=True)
    wanted = _bincount(true[:, 1:], pred[:, 1:], 4, 255)
    np.testing.assert_array_equal(confusion(true[:, 1:], pred[:, 1:], 4), wanted)
    flat_t, flat_p = true.reshape(-1)[3:], pred.reshape(-1)[3:]
    np.testing.assert_array_equal(confusion(flat_t, flat_p, 4), _bincount(flat_t, flat_p, 4, 255))


def test_scores_equal_sklearn():
    true, pred = _maps(np.random.default_rng(2), 6, (50, 50), 255, blocky=False)
    keep = true != 255
    conf = confusion(true, pred, 6)
    np.testing.assert_array_equal(conf, confusion_matrix(true[keep], pred[keep], labels=range(6)))
    np.testing.assert_allclose(iou(conf), jaccard_score(true[keep], pred[keep], average=None))


@pytest.mark.parametrize("count", [confusion, confusion_torch])
@pytest.mark.parametrize(("true", "pred"), [(5, 0), (0, 5), (255, 255), (254, 0), (0, 255)])
@pytest.mark.parametrize("place", [0, 8, 16])
def test_a_label_that_is_no_class_is_an_error(count, true, pred, place):
    t, p = np.zeros(17, np.uint8), np.zeros(17, np.uint8)
    t[place], p[place] = true, pred
    if count is confusion_torch:
        t, p = torch.from_numpy(t), torch.from_numpy(p)
    with pytest.raises(ValueError, match="labels must be 0 to 4"):
        count(t, p, 5)


def test_shapes_and_types_must_agree():
    zeros = np.zeros((2, 4), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        confusion(zeros, zeros[:, :3], 2)
    with pytest.raises(ValueError, match="uint8"):
        confusion(zeros.astype(np.int64), zeros, 2)
    with pytest.raises(ValueError, match="num_classes"):
        confusion(zeros, zeros, 256)


def test_classes_that_do_not_occur_are_left_out_of_the_mean_predicted_or_not():
    conf = np.stack([np.diag([3, 0, 1]), np.zeros((3, 3), int), np.array([[2, 2, 0], [0, 0, 0], [0, 0, 4]])])
    np.testing.assert_array_equal(iou(conf)[0], [1.0, np.nan, 1.0])
    np.testing.assert_allclose(miou(conf), [1.0, np.nan, (0.5 + 1.0) / 2])
    assert miou(conf[0]).shape == ()
