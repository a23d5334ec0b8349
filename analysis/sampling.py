"""The sample of pixels that weights are fitted on.

Enters: a `LogitStore` a member, image ids, labels. Leaves: a `FittingSample` with every view's probabilities
(V,K,P) float32 a member. The sample is uniform: one seeded share of the labelled pixels, the same for all images,
so that its confusion counts estimate the full ones without weights. Ignored pixels count for nothing, as in the
score.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.passes import LabelSource, Look, Report, Views, label_of
from analysis.pixels import sampled_probabilities
from analysis.tta import mean_of_views
from analysis.voting import Float, Labels
from trainables.logits import LogitStore


@dataclass(frozen=True)
class FittingSample:
    """A uniform sample of labelled pixels; `by_view[m]` is (V_m,K,P), its rows the views `names[m]`."""

    names: Views
    by_view: tuple[Float, ...]
    truth: Labels  # (P,)
    image: NDArray[np.int32]  # (P,) position of the pixel's image in the ids it was drawn from

    def reordered(self, order: Sequence[int]) -> FittingSample:
        names = tuple(self.names[m] for m in order)
        return FittingSample(names, tuple(self.by_view[m] for m in order), self.truth, self.image)

    def probabilities(self, look: Look, out: Float | None = None) -> Float:
        """(m,K,P): what is seen of each of the m members that are looked at, written into the first rows of `out`
        where it is given."""
        if out is None:
            out = np.empty((len(look.members), *self.by_view[0].shape[1:]), np.float32)
        for row, m in zip(out, look.members, strict=False):
            mean_of_views(self.by_view[m], self.names[m], look.views[m], row, look.temperatures[m])
        return out[: len(look.members)]

    @property
    def times(self) -> NDArray[np.int32]:
        """(P,): how often each pixel counts."""
        return np.ones(self.truth.size, np.int32)

    def rows(self, member: int, chosen: Sequence[str]) -> Float:
        """(V,K,P): a member's chosen views."""
        return self.by_view[member][[self.names[member].index(view) for view in chosen]]


def draw_sample(
    stores: Sequence[LogitStore],
    names: Views,
    ids: Sequence[str],
    labels: LabelSource,
    sample_bytes: int,
    seed: int,
    report: Report,
) -> FittingSample:
    """Probabilities of every view of `names` at the same share of every image's labelled pixels, within
    `sample_bytes`."""
    num_classes = len(stores[0].header.classes)
    sizes = stores[0].sizes
    num_pixels = sum(sizes[image_id][0] * sizes[image_id][1] for image_id in ids)
    share = sample_share(sample_bytes, num_pixels, num_classes, [len(views) for views in names])
    where, truths = [], []
    for image_id in ids:
        label = label_of(labels, image_id, stores)
        where.append(sample_pixels(label, share, seed, image_id))
        truths.append(label.reshape(-1)[where[-1]])
    ends = np.cumsum([len(flat) for flat in where])
    report(f"fitting sample: {ends[-1]:,} pixels of {len(ids)} images, {share:.1%} of them")
    by_view = tuple(np.empty((len(views), num_classes, ends[-1]), np.float32) for views in names)
    for image_id, flat, end in zip(ids, where, ends, strict=True):
        for store, views, target in zip(stores, names, by_view, strict=True):
            for row, view in zip(target, views, strict=True):
                sampled_probabilities(store, view, image_id, flat, row[:, end - len(flat) : end])
    image = np.repeat(np.arange(len(ids), dtype=np.int32), [len(flat) for flat in where])
    return FittingSample(names, by_view, np.concatenate(truths), image)


def sample_share(
    sample_bytes: int, num_pixels: int, num_classes: int, num_views: Sequence[int]
) -> float:  # views a member (M,)
    """The share of all pixels that fits `sample_bytes` with every view's probabilities, their mean a member, and
    the working memory of the weight search (scores and one class's columns)."""
    floats = num_classes * (sum(num_views) + len(num_views) + 1) + len(num_views) + 8
    return min(1.0, sample_bytes / (4 * floats * max(num_pixels, 1)))


def sample_pixels(label: NDArray[np.uint8], share: float, seed: int, image_id: str) -> NDArray[np.int64]:
    """Flat positions (P,) of a uniform sample of `share` of the labelled pixels of label (H,W).

    Depends on the seed and the image's name alone, so a sample of a subset of images is a subset of the sample.
    """
    labelled = np.flatnonzero(label.reshape(-1) != 255)
    rng = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
    exact = share * labelled.size
    num = int(exact) + int(rng.random() < exact - int(exact))  # rounded at random: unbiased for tiny shares too
    if num >= labelled.size:
        return labelled
    return labelled[np.sort(rng.choice(labelled.size, num, replace=False, shuffle=False))]
