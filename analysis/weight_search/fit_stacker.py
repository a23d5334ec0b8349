"""Fits a stacker to a sample of pixels; its size and its decay are chosen on images that each fit left out.

The loss is the mean cross-entropy of the pixels, each as often as it counts, over the classes that occur, plus decay/2
times the squared distance of all parameters from the start: random first layers, the last one 0. So the start, and the
limit of strong decay, is the members' geometric mean. For each size, decays are walked from strong to weak, each fit
from where the one before ended (L-BFGS). As weaker ones move further, the choice among them is that of when to stop as
well. The loss of a linear map is convex: multinomial logistic regression.

Pixels are taken evenly from the sample, at most CHOOSING of them for the choice, FITTING for the fit. One seed, one
thread and no mini-batches: equal samples give equal stackers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from analysis.voting.stacker import LEAST, Float, Stacker, softmax
from analysis.weight_search.coordinate_search import fit_pixels
from analysis.weight_search.pixels import Pixels

Labels = NDArray[np.uint8]
Vector = NDArray[np.float64]
HIDDEN = (0, 32)  # units: the sizes that are tried; 0 is the linear map
DECAYS = (1e-1, 1e-2, 1e-3, 1e-4)
CHOOSING, FITTING = 16384, 65536  # pixels
STEPS = 40  # of L-BFGS for each decay, fewer where one lowers the loss by less than this share of it:
TOLERANCE = 1e-4
CLASS_SWEEPS = 3  # of the exact search for the class weights by which paths are compared
LEAST_SPREAD = 1.0  # of a log probability by which it is divided: what hardly varies here is not blown up elsewhere


@dataclass(frozen=True)
class StackingSample:
    """Pixels as the loss reads them: log probabilities (F,P) standardised, the members' mean of them (k,P), the place
    of the true class among the k that occur, and the pixels' shares of the loss, both (P,)."""

    inputs: Float
    mean: Float
    truth: NDArray[np.int64]
    shares: Float

    def of(self, picked: NDArray[np.int64]) -> StackingSample:
        shares = self.shares[picked]
        return StackingSample(
            np.take(self.inputs, picked, axis=1), self.mean[:, picked], self.truth[picked], shares / shares.sum()
        )


class StackingLoss:
    """The loss of a vector of all parameters, and its gradient."""

    def __init__(self, num_inputs: int, num_classes: int, num_hidden: int, seed: int) -> None:
        sizes = [num_inputs, *([num_hidden] if num_hidden else []), num_classes]
        self.shapes = [shape for i, o in pairwise(sizes) for shape in ((o, i), (o,))]
        rng = np.random.default_rng(seed)
        start = [np.zeros(shape) for shape in self.shapes]
        if num_hidden:
            start[0] = rng.normal(size=self.shapes[0]) * np.sqrt(2 / num_inputs)  # He et al. 2015, eq. 10
        self.start: Vector = np.concatenate([layer.ravel() for layer in start])

    def layers(self, values: Vector) -> list[Float]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        parts = np.split(values.astype(np.float32), ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, values: Vector, sample: StackingSample, decay: float) -> tuple[float, Vector]:
        layers = self.layers(values)
        hidden, error = _forward(layers, sample)
        at = np.arange(sample.truth.size)
        nll = -np.log(np.maximum(error[sample.truth, at], np.float32(1e-30)))
        error[sample.truth, at] -= 1
        error *= sample.shares
        slopes = [error @ hidden.T, error.sum(1)]
        if len(layers) > 2:
            back = layers[-2].T @ error
            back *= hidden > 0
            slopes = [back @ sample.inputs.T, back.sum(1), *slopes]
        away = values - self.start
        slope = np.concatenate([part.ravel() for part in slopes]).astype(np.float64)
        loss = float(nll.astype(np.float64) @ sample.shares.astype(np.float64))
        return loss + decay / 2 * float(away @ away), slope + decay * away

    def predict(self, values: Vector, sample: StackingSample) -> Float:
        """Probabilities (k,P)."""
        return _forward(self.layers(values), sample)[1]

    def path(self, sample: StackingSample, decays: Sequence[float]) -> Iterator[Vector]:
        """The parameters of each decay, from strong to weak."""
        values = self.start
        for decay in decays:
            options = {"maxiter": STEPS, "ftol": TOLERANCE}
            found = minimize(self, values, (sample, decay), jac=True, method="L-BFGS-B", options=options)
            values = found.x
            yield values


def _forward(layers: Sequence[Float], sample: StackingSample) -> tuple[Float, Float]:
    """What the last layer reads, and the probabilities (k,P)."""
    read = sample.inputs
    if len(layers) > 2:
        read = np.maximum(layers[0] @ read + layers[1][:, None], 0)
    return read, softmax(sample.mean + (layers[-2] @ read + layers[-1][:, None]))


class _Inputs:
    """At most `most` of the labelled pixels, and how their classes and inputs lie in a stacker of all classes."""

    def __init__(self, pixels: Pixels, most: int) -> None:
        labelled = np.flatnonzero(pixels.truth != 255)
        self.picked = labelled[:: max(1, -(-labelled.size // most))]
        self.num_members, num_classes = pixels.shape
        truth, times = pixels.truth[self.picked], pixels.strata.per_pixel()[self.picked]
        self.fitted = np.isin(np.arange(num_classes), truth)
        logs = np.log(np.maximum(np.take(pixels.q, self.picked, axis=2), LEAST))[:, self.fitted]  # (M,k,P)
        mean: Float = logs.sum(0) / np.float32(len(logs))
        inputs = logs.reshape(-1, logs.shape[2])
        shares = (times / times.sum()).astype(np.float32)
        self.centre = inputs @ shares
        inputs -= self.centre[:, None]
        self.spread = np.maximum(np.sqrt(np.square(inputs) @ shares), np.float32(LEAST_SPREAD))
        inputs /= self.spread[:, None]
        self.sample = StackingSample(inputs, mean, (np.cumsum(self.fitted) - 1)[truth], shares)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of inputs, and of classes that occur."""
        return self.sample.inputs.shape[0], self.sample.mean.shape[0]

    def stacker(self, layers: Sequence[Float]) -> Stacker:
        """Standardisation becomes part of the first layer. What is said of other classes is not read."""
        first, *rest = layers
        used = np.tile(self.fitted, self.num_members)
        whole = np.zeros((len(first), used.size), np.float32)
        whole[:, used] = first / self.spread
        full = [whole, rest[0] - (first / self.spread) @ self.centre, *rest[1:]]
        for place in (-2, -1):
            rows = np.zeros((self.fitted.size, *full[place].shape[1:]), np.float32)
            rows[self.fitted] = full[place]
            full[place] = rows
        return Stacker(tuple(full), self.fitted)


def fit_stacker(pixels: Pixels, folds: NDArray[np.int64] | None, seed: int) -> Stacker:
    """The stacker of the labelled pixels. `folds` (P,) are those of its choice; without two of them among the labelled
    pixels nothing can be chosen, and it is the geometric mean, as it is where no fit of a fold does better than that.

    Raises ValueError where no pixel has a label.
    """
    if not pixels.num_labelled():
        raise ValueError("a stacker needs labelled pixels, got none (all 255); give a larger sample or another split")
    with threadpool_limits(1, "blas"):
        size, steps = _choose(pixels, folds, seed) if folds is not None else (0, 0)
        fitting = _Inputs(pixels, FITTING)
        loss = StackingLoss(*fitting.shape, size, seed)
        *_, values = loss.start, *loss.path(fitting.sample, DECAYS[:steps])
        return fitting.stacker(loss.layers(values))


def _choose(pixels: Pixels, folds: NDArray[np.int64], seed: int) -> tuple[int, int]:
    """The size, and how many of the decays to walk: those with the highest mIoU over all folds, each left out of the
    fit that predicts it, under the class weights that are best for these predictions. The first of equals, which is
    nearest to the geometric mean."""
    few = _Inputs(pixels, CHOOSING)
    sample, fold_of = few.sample, folds[few.picked]
    names = np.unique(fold_of)
    if len(names) < 2:
        return 0, 0
    outputs = {(0, 0): softmax(sample.mean)}
    for size in HIDDEN:
        loss = StackingLoss(*few.shape, size, seed)
        for fold in names:
            held = np.flatnonzero(fold_of == fold)
            left_out = sample.of(held)
            path = loss.path(sample.of(np.flatnonzero(fold_of != fold)), DECAYS)
            for steps, values in enumerate(path, 1):
                found = outputs.setdefault((size, steps), np.empty_like(sample.mean))
                found[:, held] = loss.predict(values, left_out)
    strata = pixels.strata.of(few.picked)
    scores = []
    for q in outputs.values():
        alone, ones = Pixels(q[None], sample.truth.astype(np.uint8), strata), np.ones((1, len(q)), np.float32)
        fit = fit_pixels(alone, [ones], "class", max_sweeps=CLASS_SWEEPS, min_gain=1e-4)
        scores.append(fit.miou)
    return list(outputs)[int(np.argmax(scores))]
