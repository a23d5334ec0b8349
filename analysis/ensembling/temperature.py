"""A member's temperature: the number that divides its logits so that its probabilities match its error rates.

Fitted on a sample's probabilities per view (V,K,P) float32 and labels (P,) uint8 (255: ignored), as the minimum of the
negative log-likelihood (Guo et al. 2017, "On calibration of modern neural networks", eq. 9). It changes no label of the
member alone in one view, only how strongly the member is weighted beside others.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.voting.votes import Float, Labels
from analysis.weight_search.strata import Strata, of_pixels

LEAST = np.float32(1e-30)  # of a probability, so that its logarithm is finite
LOWEST, HIGHEST = 1 / 16, 16.0  # of 1/T
SILENT = 0.99 * HIGHEST  # of T: the sample asks for less than the least that can be said
TOLERANCE = 1e-5  # of 1/T, relative
MAX_PIXELS = 32768  # one number needs no more


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _likelihood(logs, truth, weighs, beta):  # type: ignore[no-untyped-def] # (V,K,P), (P,) x2 -> sums of the NLL and its two derivatives by beta
    num_views, num_classes, num_pixels = logs.shape
    nll, slope, bend = 0.0, 0.0, 0.0
    for v in range(num_views):
        for i in range(num_pixels):
            top = logs[v, 0, i]
            for k in range(1, num_classes):
                top = max(top, logs[v, k, i])
            total, first, second = 0.0, 0.0, 0.0
            for k in range(num_classes):
                value = np.float64(logs[v, k, i] - top)
                share = np.exp(beta * value)
                total += share
                first += share * value
                second += share * value * value
            mean = first / total
            true = np.float64(logs[v, truth[i], i] - top)
            nll += weighs[i] * (np.log(total) - beta * true)
            slope += weighs[i] * (mean - true)
            bend += weighs[i] * (second / total - mean * mean)
    return nll, slope, bend


def fit_temperature(q: Float, truth: Labels, strata: Strata | None = None) -> float:
    """T for the views q (V,K,P) of one member, 1 where no other is better.

    The likelihood is convex in 1/T, so Newton's steps, halved into the bracket where they leave it, find its top.
    """
    labelled = np.flatnonzero(truth != 255)
    part = labelled[:: max(1, labelled.size // MAX_PIXELS)]
    logs = np.log(np.maximum(q[:, :, part], LEAST))
    few, weighs = truth[part], of_pixels(strata, truth.size).per_pixel()[part]
    low, high, beta = LOWEST, HIGHEST, 1.0
    for _ in range(60):
        _, slope, bend = _likelihood(logs, few, weighs, beta)
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / bend if bend > 0 else 0.0
        after = step if low < step < high else (low + high) / 2
        if abs(after - beta) <= TOLERANCE * beta:
            break
        beta = after
    return 1.0 if _likelihood(logs, few, weighs, beta)[0] >= _likelihood(logs, few, weighs, 1.0)[0] else 1 / beta


def nll(q: Float, truth: Labels, temperature: float) -> float:
    """The mean negative log-likelihood of the labelled pixels under a temperature, over all views of q (V,K,P)."""
    labelled = truth != 255
    logs = np.log(np.maximum(q[:, :, labelled], LEAST))
    return float(_likelihood(logs, truth[labelled], np.ones(int(labelled.sum()), np.int64), 1 / temperature)[0]) / max(
        int(labelled.sum()) * len(q), 1
    )


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _add_tempered(q, beta, share, out):  # type: ignore[no-untyped-def] # (K,P) -> adds to (K,P)
    num_classes, num_pixels = q.shape
    value = np.empty(num_classes, np.float32)
    for i in range(num_pixels):
        top = np.float32(0)
        for k in range(num_classes):
            top = max(top, q[k, i])
        total = np.float32(0)
        for k in range(num_classes):
            value[k] = (q[k, i] / top) ** beta
            total += value[k]
        for k in range(num_classes):
            out[k, i] += share * (value[k] / total)


def add_tempered(q: Float, temperature: float, share: np.float32, out: Float) -> None:
    """Adds `share` of softmax(logits / T) to out (K,P), where q (K,P) is softmax(logits): q**(1/T), normalised."""
    _add_tempered(q, np.float32(1 / temperature), share, out)
