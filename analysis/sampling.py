"""The sample of pixels that weights are fitted on.

Enters: a `LogitStore` a member, image ids, labels. Leaves: a `FittingSample` with every view's probabilities
(V,K,P) float32 a member. Two strata: pixels within NEAR_PX of a change of label, where members differ and weights
decide, are drawn up to INTERIOR_WEIGHT times as densely as the others, which then count that many times: weighted
counts estimate the full ones without bias (Horvitz and Thompson 1952) and stay whole numbers. Ignored pixels count
for nothing, as in the score.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from analysis.passes import LabelSource, Report, Views, label_of
from analysis.pixels import sampled_probabilities
from analysis.strata import Strata
from analysis.tta import mean_of_views
from analysis.voting import Float, Labels
from trainables.logits import LogitStore

NEAR_PX = 4  # one cell of logits at stride 4: what bilinear upsampling blurs
INTERIOR_WEIGHT = 4  # where errors lie near boundaries it halves the spread of a 3% sample's mIoU; 8 gains little more


@dataclass(frozen=True)
class Densities:
    """Of the pixels near boundaries `near_share` are drawn, each counting once; of the others a share
    `interior_weight` times smaller, each counting that many times. Counts over `near_share` estimate the full ones."""

    near_share: float
    interior_weight: int


@dataclass(frozen=True)
class FittingSample:
    """A sample of labelled pixels, those near boundaries first; `by_view[m]` is (V_m,K,P), its rows the views
    `names[m]`."""

    names: Views
    by_view: tuple[Float, ...]
    truth: Labels  # (P,)
    image: NDArray[np.int32]  # (P,) position of the pixel's image in the ids it was drawn from
    strata: Strata  # how often each pixel counts

    def reordered(self, order: Sequence[int]) -> FittingSample:
        names = tuple(self.names[m] for m in order)
        return FittingSample(names, tuple(self.by_view[m] for m in order), self.truth, self.image, self.strata)

    def probabilities(self, views: Views, out: Float | None = None) -> Float:
        """(M,K,P): each member's mean over its chosen views, written into `out` where it is given."""
        if out is None:
            out = np.empty((len(views), *self.by_view[0].shape[1:]), np.float32)
        for m, chosen in enumerate(views):
            mean_of_views(self.by_view[m], self.names[m], chosen, out[m])
        return out


def draw_sample(
    stores: Sequence[LogitStore],
    names: Views,
    ids: Sequence[str],
    labels: LabelSource,
    sample_bytes: int,
    seed: int,
    report: Report,
) -> FittingSample:
    """Probabilities of every view of `names` at the same densities of every image's labelled pixels, within
    `sample_bytes`. Reads the labels twice: how densely pixels can be drawn depends on how many lie near boundaries."""
    num_classes = len(stores[0].header.classes)
    found = np.zeros(2, np.int64)  # near boundaries, labelled
    for image_id in ids:
        label = label_of(labels, image_id, stores)
        found += near_boundary(label)[label != 255].sum(), (label != 255).sum()
    densities = densities_within(
        pixels_that_fit(sample_bytes, num_classes, [len(views) for views in names]), int(found[0]), int(found[1])
    )
    drawn, truths = [], []
    for image_id in ids:
        label = label_of(labels, image_id, stores)
        drawn.append(sample_pixels(label, densities, seed, image_id))
        truths.append([label.reshape(-1)[flat] for flat in drawn[-1]])
    sizes = np.array([[flat.size for flat in flats] for flats in drawn]).reshape(-1, 2)  # (N,2)
    num_near, num_pixels = int(sizes[:, 0].sum()), int(sizes.sum())
    share = num_pixels / max(int(found[1]), 1)
    report(
        f"fitting sample: {num_pixels:,} pixels of {len(ids)} images, {share:.1%} of them; "
        f"{num_near:,} lie within {NEAR_PX} px of a boundary, each other one counts {densities.interior_weight} times"
    )
    by_view = tuple(np.empty((len(views), num_classes, num_pixels), np.float32) for views in names)
    starts = np.cumsum(sizes, axis=0) - sizes + (0, num_near)
    for image_id, flats, (near, inner) in zip(ids, drawn, starts, strict=True):
        flat = np.concatenate(flats)
        values = np.empty((num_classes, flat.size), np.float32)
        split = flats[0].size
        for store, views, target in zip(stores, names, by_view, strict=True):
            for row, view in zip(target, views, strict=True):
                sampled_probabilities(store, view, image_id, flat, values)
                row[:, near : near + split] = values[:, :split]
                row[:, inner : inner + flat.size - split] = values[:, split:]
    order = np.arange(len(ids), dtype=np.int32)
    image = np.concatenate([np.repeat(order, sizes[:, stratum]) for stratum in (0, 1)])
    truth = np.concatenate([truth[stratum] for stratum in (0, 1) for truth in truths])
    strata = Strata((num_near, num_pixels), (1, densities.interior_weight))
    return FittingSample(names, by_view, truth, image, strata)


def pixels_that_fit(sample_bytes: int, num_classes: int, num_views: Sequence[int]) -> int:  # views a member (M,)
    """How many pixels fit `sample_bytes` with every view's probabilities, their mean a member, and the working
    memory of the weight search (each pixel's two highest scores, and one class's columns)."""
    floats = num_classes * (sum(num_views) + len(num_views)) + len(num_views) + 8
    return sample_bytes // (4 * floats)


def densities_within(num_fit: int, num_near: int, num_labelled: int) -> Densities:
    """The densest sample of at most `num_fit` pixels; all of them, each counting once, where they fit."""
    num_inner = num_labelled - num_near
    if num_fit >= num_labelled:
        return Densities(1.0, 1)
    for weight in range(INTERIOR_WEIGHT, 1, -1):
        if num_fit <= num_near + num_inner / weight:
            return Densities(num_fit / (num_near + num_inner / weight), weight)
    return Densities(num_fit / num_labelled, 1)


def near_boundary(label: Labels) -> NDArray[np.bool_]:
    """(H,W): pixels with two labels within NEAR_PX of them in rows and columns; 255 is a label too, as true
    boundaries often lie in what is ignored."""
    window = np.ones((2 * NEAR_PX + 1, 2 * NEAR_PX + 1), np.uint8)
    near: NDArray[np.bool_] = cv2.dilate(label, window) != cv2.erode(label, window)
    return near


def sample_pixels(
    label: Labels, densities: Densities, seed: int, image_id: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions of the drawn pixels of label (H,W): those near boundaries, and the others.

    Depends on the seed and the image's name alone, so a sample of a subset of images is a subset of the sample.
    """
    rng = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
    near, labelled = near_boundary(label).reshape(-1), label.reshape(-1) != 255
    shares = densities.near_share, densities.near_share / densities.interior_weight
    strata = np.flatnonzero(labelled & near), np.flatnonzero(labelled & ~near)
    first, second = (_uniform(flat, share, rng) for flat, share in zip(strata, shares, strict=True))
    return first, second


def _uniform(flat: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    exact = share * flat.size
    num = int(exact) + int(rng.random() < exact - int(exact))  # rounded at random: unbiased for tiny shares too
    if num >= flat.size:
        return flat
    return flat[np.sort(rng.choice(flat.size, num, replace=False, shuffle=False))]
