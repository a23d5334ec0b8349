"""Scores rules on images that they were not fitted on.

Counts (N,K,K) int64 of an image come from votes fitted without the image's fold. Where a rule has several candidates
(shares of shrinkage), the choice is nested: an image's candidate is chosen on the other folds alone, so its own labels
have no say in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import MIN_GROUPS, Draws, bootstrap_draws, resample
from analysis.ensembling.verdict import climb
from trainables.metrics import miou

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class CrossfitFolds:
    """`of_image[i]` is the fold that holds image i out; `caveat` says in words what could not be had."""

    of_image: NDArray[np.int64]  # (N,)
    num: int
    caveat: str | None


@dataclass(frozen=True)
class Images:
    """The images of val (N,), as a bootstrap that chooses among candidates draws them."""

    groups: Sequence[str]
    grouped: bool
    seed: int
    num_resamples: int = 500

    @property
    def num_units(self) -> int:
        """How many groups, or images where the card names no groups."""
        return len(set(self.groups)) if self.grouped else len(self.groups)

    def draws(self, of: NDArray[np.bool_]) -> Draws:
        """Resamples of the images `of` (N,); of single ones where they are of few groups. What is chosen by them is no
        claim: `verdict.select_rule`, which resamples groups, decides whether it is taken."""
        groups = [self.groups[i] for i in np.flatnonzero(of).tolist()]
        grouped = self.grouped and len(set(groups)) >= MIN_GROUPS
        return bootstrap_draws(groups, grouped, self.num_resamples, self.seed)


def make_crossfit_folds(
    image_ids: Sequence[str], group_of: Mapping[str, str], grouped: bool, num_folds: int, seed: int
) -> CrossfitFolds:
    """Whole groups per fold, balanced by their number of images; where the card names no groups, single images. With
    fewer groups than folds, a fold per group.

    One group cannot be cross-fitted: it is cut into blocks of consecutive images, whose scores a caveat calls those of
    that group alone (no rule is taken by them, as one unit has no interval). Raises ValueError for fewer than 2 images.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, image_id in enumerate(image_ids):
        members[group_of[image_id] if grouped else image_id].append(i)
    num = min(num_folds, len(image_ids))
    if num < 2:
        raise ValueError(
            f"cross-fitting needs at least 2 images and 2 folds, got {len(image_ids)} images of val and {num_folds} "
            "folds; give a larger val"
        )
    of_image = np.empty(len(image_ids), np.int64)
    if len(members) == 1:
        ordered = sorted(range(len(image_ids)), key=lambda i: image_ids[i])
        for fold, block in enumerate(np.array_split(np.array(ordered), num)):
            of_image[block] = fold
        blocks = (
            "val is 1 group, which cannot be cross-fitted: its folds are blocks of consecutive images, so cross-fitted "
            "scores are those of this group alone, and no richer rule is taken by them; give a val of several groups"
        )
        return CrossfitFolds(of_image, num, blocks)
    num = min(num, len(members))
    names = sorted(members)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    sizes = np.zeros(num, np.int64)
    for name in sorted(shuffled, key=lambda n: -len(members[n])):
        fold = int(np.argmin(sizes))
        of_image[members[name]] = fold
        sizes[fold] += len(members[name])
    few = f"val has {num} groups, fewer than {num_folds} folds: each is a fold" if num < num_folds else None
    return CrossfitFolds(of_image, num, few if grouped else None)


def inner_folds(images: Images, kept: NDArray[np.bool_], num_folds: int) -> NDArray[np.int64]:
    """(N,): folds of the images `kept` (N,), by which their fit makes choices of its own; -1 of the others, and of all
    where there is one image alone."""
    out, places = np.full(kept.size, -1), np.flatnonzero(kept)
    if len(places) > 1:
        ids = [f"{i:09d}" for i in places.tolist()]  # their order is that of the images
        groups = dict(zip(ids, (images.groups[i] for i in places.tolist()), strict=True))
        out[places] = make_crossfit_folds(ids, groups, images.grouped, num_folds, images.seed).of_image
    return out


def choose_candidate(counts: Sequence[Counts], of: NDArray[np.bool_]) -> int:
    """The candidate with the highest mIoU on the images `of` (N,); ties go to the later one, the more shrunk."""
    scores = np.array([float(miou(c[of].sum(0))) for c in counts])
    return int(np.flatnonzero(scores == scores.max())[-1])


@dataclass(frozen=True)
class Nested:
    """A rule's counts (N,K,K), each image's by the candidate chosen on the other folds; those candidates, as (tier,
    place in it), and the one chosen on all folds."""

    counts: Counts
    by_fold: tuple[tuple[int, int], ...]
    whole: tuple[int, int]


def nested(tiers: Sequence[Sequence[Counts]], folds: CrossfitFolds, images: Images) -> Nested:
    """Candidates come in tiers, from cheap to expensive to predict. Of a tier the best is taken (`choose_candidate`);
    a more expensive tier's best is taken over it where its gain holds (`verdict.climb`): it costs every image
    for ever."""

    def choose(of: NDArray[np.bool_]) -> tuple[int, int]:
        best = [(tier, choose_candidate(counts, of)) for tier, counts in enumerate(tiers)]
        if len(best) == 1:
            return best[0]
        draws = images.draws(of)
        return best[int(climb({str(t): resample(tiers[t][c][of], draws) for t, c in best}))]

    chosen = np.empty_like(tiers[0][0])
    by_fold = []
    for fold in range(folds.num):
        held = folds.of_image == fold
        tier, place = choose(~held)
        chosen[held] = tiers[tier][place][held]
        by_fold.append((tier, place))
    return Nested(chosen, tuple(by_fold), choose(np.ones(len(chosen), bool)))
