"""The one confusion matrix, int64 (K,K) [true, predicted], and the IoU and mIoU computed from it.

mIoU is the mean, over the classes that occur in the truth, of the IoU of ONE matrix summed over images. Predictions of
a class that does not occur count against the classes that they were taken from, and the class itself has no IoU: so
every prediction of the same images is averaged over the same classes. torchmetrics' JaccardIndex and mmsegmentation's
IoUMetric agree wherever every predicted class occurs; elsewhere they average a 0 for it.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SPREAD = np.uint64(0x0101010101010101)  # times a byte: that byte in all eight places of a word
_LOW, _HIGH = np.uint64(0xFF), np.uint64(0xFF00)
# 65536 cells a table, and a gap: tables a multiple of 4 KiB apart would make the CPU take an access to the same
# cell of the next table for one to this table (4K aliasing) and wait; the gap makes noisy maps five times quicker
_STRIDE = 65536 + 72
_TABLE_1, _TABLE_2, _TABLE_3 = (np.uint64(i * _STRIDE) for i in (1, 2, 3))


@numba.njit(cache=True, nogil=True, fastmath=False)  # type: ignore[untyped-decorator, unused-ignore]
def _count_words(
    true: NDArray[np.uint64], pred: NDArray[np.uint64], counts: NDArray[np.int64]
) -> None:  # (P/8,), (P/8,), (4*_STRIDE,)
    """Count eight pixels per step. Label maps are piecewise constant, so most words hold one (true, predicted) pair."""
    eight, sixteen, thirty_two = np.uint64(8), np.uint64(16), np.uint64(32)
    for i in range(true.size):
        t = true[i]
        p = pred[i]
        t0 = t & _LOW
        p0 = p & _LOW
        if t == t0 * _SPREAD and p == p0 * _SPREAD:
            counts[(t0 << eight) | p0] += 8
            continue
        # neighbours often share a cell: four tables keep an increment from waiting for the store before it
        for _ in range(2):
            counts[((t & _LOW) << eight) | (p & _LOW)] += 1
            counts[_TABLE_1 + ((t & _HIGH) | ((p >> eight) & _LOW))] += 1
            counts[_TABLE_2 + (((t >> eight) & _HIGH) | ((p >> sixteen) & _LOW))] += 1
            counts[_TABLE_3 + (((t >> sixteen) & _HIGH) | ((p >> np.uint64(24)) & _LOW))] += 1
            t >>= thirty_two
            p >>= thirty_two


def confusion(
    true: NDArray[np.uint8], pred: NDArray[np.uint8], num_classes: int, ignore_index: int = 255
) -> NDArray[np.int64]:  # (..), (..) -> (K,K)
    """Count pixels by [true, predicted] class; pixels whose truth is `ignore_index` are left out.

    Raises ValueError where shapes or types disagree, or where a label (predicted ones under ignored truth too) is not a
    class: a label that is silently dropped would flatter the score.
    """
    _check_classes(num_classes)
    true, pred = np.asarray(true), np.asarray(pred)
    if true.shape != pred.shape:
        raise ValueError(f"true and predicted labels must have one shape, got {true.shape} and {pred.shape}")
    if true.dtype != np.uint8 or pred.dtype != np.uint8:
        raise ValueError(f"labels must be uint8, got {true.dtype} and {pred.dtype}; convert with .astype(np.uint8)")
    flat_true, flat_pred = np.ascontiguousarray(true).reshape(-1), np.ascontiguousarray(pred).reshape(-1)
    words = flat_true.size // 8 * 8
    # calloc gives zero pages that cost nothing until touched: only the cells in use are ever read or written
    counts = np.zeros(4 * _STRIDE, dtype=np.int64)
    if words:
        _count_words(flat_true[:words].view(np.uint64), flat_pred[:words].view(np.uint64), counts)
    for t, p in zip(flat_true[words:].tolist(), flat_pred[words:].tolist(), strict=True):
        counts[t << 8 | p] += 1
    square = counts.reshape(4, _STRIDE)[:, :65536].reshape(4, 256, 256)
    kept: NDArray[np.int64] = square[:, :num_classes, :num_classes].sum(axis=0)
    ignored = int(square[:, ignore_index, :num_classes].sum()) if ignore_index >= num_classes else 0
    if int(kept.sum()) + ignored != flat_true.size:
        _raise_out_of_range(np.unique(flat_true), np.unique(flat_pred), num_classes, ignore_index)
    if ignore_index < num_classes:
        kept[ignore_index] = 0
    return kept


def confusion_torch(
    true: Tensor, pred: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:  # (..), (..) -> (K,K)
    """`confusion` for integer tensors on any one device; int64 counts stay on that device.

    Raises ValueError as `confusion` does.
    """
    _check_classes(num_classes)
    if true.shape != pred.shape:
        raise ValueError(
            f"true and predicted labels must have one shape, got {tuple(true.shape)} and {tuple(pred.shape)}"
        )
    t, p = true.reshape(-1).long(), pred.reshape(-1).long()
    side = num_classes + 2  # K classes, then ignored, then out of range
    t = torch.where((t < 0) | (t >= num_classes) & (t != ignore_index), num_classes + 1, t)
    t = torch.where(t == ignore_index, num_classes, t)
    p = torch.where((p < 0) | (p >= num_classes), num_classes + 1, p)
    square = torch.bincount(t * side + p, minlength=side * side).view(side, side)
    if int(square[-1].sum() + square[:, -1].sum()):
        _raise_out_of_range(np.unique(true.cpu().numpy()), np.unique(pred.cpu().numpy()), num_classes, ignore_index)
    return square[:num_classes, :num_classes]


def iou(conf: NDArray[np.int64]) -> NDArray[np.float64]:  # (..,K,K) -> (..,K)
    """Intersection over union of each class; NaN for a class that does not occur in the truth."""
    return iou_of(np.diagonal(conf, axis1=-2, axis2=-1), conf.sum(axis=-2), conf.sum(axis=-1))


def iou_of(
    hits: NDArray[np.number], predicted: NDArray[np.number], true: NDArray[np.number]
) -> NDArray[np.float64]:  # (..,K) each -> (..,K)
    """`iou` of a matrix of which only the diagonal, the column sums and the row sums are known."""
    right = np.asarray(hits, np.float64)
    union = predicted + true - right
    ratio: NDArray[np.float64] = np.divide(right, union, out=np.full_like(right, np.nan), where=np.asarray(true) > 0)
    return ratio


def miou(conf: NDArray[np.int64]) -> NDArray[np.float64]:  # (..,K,K) -> (..)
    """Mean IoU over the classes that occur in the truth; NaN where none does."""
    return mean_iou(iou(conf))


def mean_iou(per_class: NDArray[np.float64]) -> NDArray[np.float64]:  # (..,K) -> (..)
    """The mean over the classes that have an IoU; NaN where none has."""
    present = ~np.isnan(per_class)
    num_present = np.asarray(present.sum(axis=-1))
    total = np.asarray(np.where(present, per_class, 0.0).sum(axis=-1))
    mean: NDArray[np.float64] = np.divide(total, num_present, out=np.full_like(total, np.nan), where=num_present > 0)
    return mean


def _check_classes(num_classes: int) -> None:
    if not 1 <= num_classes <= 255:
        raise ValueError(f"num_classes must be 1 to 255 (labels are uint8, 255 is ignored), got {num_classes}")


def _raise_out_of_range(
    true: NDArray[np.integer], pred: NDArray[np.integer], num_classes: int, ignore_index: int
) -> None:  # the labels that occur
    bad_true = [int(v) for v in true if not 0 <= v < num_classes and v != ignore_index]
    bad_pred = [int(v) for v in pred if not 0 <= v < num_classes]
    raise ValueError(
        f"labels must be 0 to {num_classes - 1} (or {ignore_index} for ignored truth), got true {bad_true} and "
        f"predicted {bad_pred}; check the number of classes and that both maps use the same class order"
    )
