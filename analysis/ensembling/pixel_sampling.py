"""The sample of pixels that weights are fitted on.

It holds every view's probabilities (V,K,P) float32 per member, in two strata: pixels within NEAR_PX of a change of
label, where members differ and weights decide, are drawn up to INTERIOR_WEIGHT times as densely as the others, which
then count that many times: weighted counts estimate the full ones without bias (Horvitz and Thompson 1952) and stay
whole numbers. Ignored pixels do not count, as in the score.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.temperature import add_tempered
from analysis.voting.executor import Executor
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.probabilities import sampled_probabilities
from analysis.voting.view_config import ViewConfig, Views
from analysis.voting.votes import Float, Labels
from analysis.weight_search.pixels import Pixels
from analysis.weight_search.strata import Strata

NEAR_PX = 4  # one cell of logits at stride 4: what bilinear upsampling blurs
COARSE_PIXELS = 32768  # views are searched and temperatures fitted on fewer than twice as many
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

    def probabilities(self, view_config: ViewConfig, out: Float | None = None) -> Float:
        """(m,K,P): what is seen of each of the m members that are looked at, written into the first rows of `out`
        where it is given."""
        if out is None:
            out = np.empty((len(view_config.members), *self.by_view[0].shape[1:]), np.float32)
        for row, m in zip(out, view_config.members, strict=False):
            mean_of_views(self.by_view[m], self.names[m], view_config.views[m], row, view_config.temperatures[m])
        return out[: len(view_config.members)]

    def of_members(self, order: Sequence[int]) -> FittingSample:
        """The same pixels with these members, in this order."""
        names = tuple(self.names[m] for m in order)
        return replace(self, names=names, by_view=tuple(self.by_view[m] for m in order))

    @property
    def times(self) -> NDArray[np.int32]:
        """(P,): how often each pixel counts."""
        return self.strata.per_pixel().astype(np.int32)

    def every(self, step: int) -> FittingSample:
        """Every `step`-th pixel, without a copy of the probabilities."""
        few = tuple(by_view[:, :, ::step] for by_view in self.by_view)
        strata = self.strata.of(np.arange(0, self.truth.size, step))
        return FittingSample(self.names, few, self.truth[::step], self.image[::step], strata)

    @cached_property
    def coarse(self) -> FittingSample:
        """Every n-th pixel: fewer than 2 * COARSE_PIXELS."""
        return self.every(max(1, self.truth.size // COARSE_PIXELS))

    @cached_property
    def _room(self) -> Float:  # (M,K,P), kept from one view configuration to the next: fresh memory costs time
        return np.empty((len(self.names), *self.by_view[0].shape[1:]), np.float32)

    def see(self, view_config: ViewConfig, kept: NDArray[np.bool_]) -> Pixels:
        """What is seen through `view_config`; the pixels of images that are not `kept` (N,) have no label. The next
        call overwrites its probabilities."""
        truth = np.where(kept[self.image], self.truth, np.uint8(255))
        return Pixels(self.probabilities(view_config, self._room), truth, self.strata)

    def rows(self, member: int, chosen: Sequence[str]) -> Float:
        """(V,K,P): a member's chosen views."""
        return self.by_view[member][[self.names[member].index(view) for view in chosen]]


@dataclass(frozen=True)
class DensityJob:
    """A job: how many labelled pixels of each image lie near boundaries, and how many do not: (n,2) int64."""

    data: LabelledLogits
    device: None = None

    def __call__(self, ids: Sequence[str]) -> NDArray[np.int64]:
        found = np.empty((len(ids), 2), np.int64)
        for i, image_id in enumerate(ids):
            found[i] = [flat.size for flat in strata_of(self.data.label(image_id))]
        return found


@dataclass(frozen=True)
class SamplingPlan:
    """A job: the drawn pixels of each image in every view, image after image, of each those near boundaries first."""

    data: LabelledLogits
    densities: Densities
    seed: int
    device: None = None

    def __call__(self, ids: Sequence[str]) -> DrawnPixels:
        data, where, truths = self.data, [], []
        for image_id in ids:
            label = data.label(image_id)
            where.append(np.concatenate(sample_pixels(label, self.densities, self.seed, image_id)))
            truths.append(label.reshape(-1)[where[-1]])
        ends = np.cumsum([flat.size for flat in where])
        by_view = tuple(np.empty((len(views), data.num_classes, ends[-1]), np.float32) for views in data.views)
        for image_id, flat, end in zip(ids, where, ends, strict=True):
            for store, target in zip(data.stores, by_view, strict=True):
                for row, view in zip(target, store.views, strict=True):
                    sampled_probabilities(store, view, image_id, flat, row[:, end - flat.size : end])
        return DrawnPixels(np.concatenate(truths), by_view)


@dataclass(frozen=True)
class DrawnPixels:
    """A part of the sample."""

    truth: Labels  # (p,)
    by_view: tuple[Float, ...]  # (V_m,K,p) per member


def plan_sample(
    data: LabelledLogits, sample_bytes: int, seed: int, executor: Executor
) -> tuple[SamplingPlan, NDArray[np.int64]]:
    """The job that draws the sample, and how many pixels of each image it draws: near boundaries, and others (N,2).

    Reads the labels once more than the job does: how densely pixels can be drawn depends on how many lie near
    boundaries.
    """
    found = np.concatenate(list(executor(DensityJob(data), data.ids)))  # (N,2)
    fit = pixels_that_fit(sample_bytes, data.num_classes, [len(views) for views in data.views])
    densities = densities_within(fit, int(found[:, 0].sum()), int(found.sum()))
    sizes = np.array([num_drawn(n, densities, generator(seed, i)) for n, i in zip(found, data.ids, strict=True)])
    executor.say(
        f"fitting sample: {sizes.sum():,} pixels of {len(data.ids)} images, "
        f"{sizes.sum() / max(int(found.sum()), 1):.1%} of them; {sizes[:, 0].sum():,} lie within {NEAR_PX} px of a "
        f"boundary, each other one counts {densities.interior_weight} times"
    )
    return SamplingPlan(data, densities, seed), sizes


def gather(plan: SamplingPlan, sizes: NDArray[np.int64], parts: Iterable[DrawnPixels]) -> FittingSample:
    """The drawn pixels of all images, put in order as their parts come; `sizes` (N,2) as `plan_sample` gives them."""
    names, num_classes = plan.data.views, plan.data.num_classes
    num_near, num_pixels = int(sizes[:, 0].sum()), int(sizes.sum())
    by_view = tuple(np.empty((len(views), num_classes, num_pixels), np.float32) for views in names)
    truth = np.empty(num_pixels, np.uint8)
    starts = np.cumsum(sizes, axis=0) - sizes + (0, num_near)
    images = iter(zip(sizes, starts, strict=True))
    for part in parts:
        at = 0
        while at < part.truth.size:
            for size, start in zip(*next(images), strict=True):
                here, there = slice(at, at + size), slice(start, start + size)
                truth[there] = part.truth[here]
                for target, drawn in zip(by_view, part.by_view, strict=True):
                    target[:, :, there] = drawn[:, :, here]
                at += size
    order = np.arange(len(sizes), dtype=np.int32)
    image = np.concatenate([np.repeat(order, sizes[:, stratum]) for stratum in (0, 1)])
    strata = Strata((num_near, num_pixels), (1, plan.densities.interior_weight))
    return FittingSample(names, by_view, truth, image, strata)


def pixels_that_fit(sample_bytes: int, num_classes: int, num_views: Sequence[int]) -> int:  # views per member (M,)
    """How many pixels fit `sample_bytes` with every view's probabilities, their mean per member, and the working
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


def strata_of(label: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions of the labelled pixels of label (H,W): those near boundaries, and the others."""
    near, labelled = near_boundary(label).reshape(-1), label.reshape(-1) != 255
    return np.flatnonzero(labelled & near), np.flatnonzero(labelled & ~near)


def generator(seed: int, image_id: str) -> np.random.Generator:
    """An image's own: a sample of a subset of images is a subset of the sample."""
    return np.random.default_rng([seed, zlib.crc32(image_id.encode())])


def num_drawn(found: Sequence[int] | NDArray[np.int64], densities: Densities, rng: np.random.Generator) -> list[int]:
    """How many of an image's pixels `found` (2,) in the strata are drawn; the first numbers that are asked of `rng`."""
    shares = densities.near_share, densities.near_share / densities.interior_weight
    exact = [share * int(num) for share, num in zip(shares, found, strict=True)]
    # rounded at random: unbiased for tiny shares too
    rounded = [int(part) + int(rng.random() < part - int(part)) for part in exact]
    return [min(num, int(most)) for num, most in zip(rounded, found, strict=True)]


def sample_pixels(
    label: Labels, densities: Densities, seed: int, image_id: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions of the drawn pixels of label (H,W): those near boundaries, and the others."""
    rng, strata = generator(seed, image_id), strata_of(label)
    nums = num_drawn([flat.size for flat in strata], densities, rng)
    first, second = (
        flat if num == flat.size else flat[np.sort(rng.choice(flat.size, num, replace=False, shuffle=False))]
        for flat, num in zip(strata, nums, strict=True)
    )
    return first, second


def mean_of_views(q: Float, views: Sequence[str], chosen: Sequence[str], out: Float, temperature: float = 1.0) -> None:
    """Writes the mean of the chosen rows of q (V,K,P) into out (K,P), in the order in which they were chosen, as they
    are where each view's logits are divided by `temperature`."""
    out[:] = 0
    share = np.float32(1 / len(chosen))
    for view in chosen:
        row = q[views.index(view)]
        if temperature == 1:
            out += share * row
        else:
            add_tempered(row, temperature, share, out)
