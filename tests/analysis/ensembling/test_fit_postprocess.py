"""Post-processing that must pay: kept where specks are wrong, left where they are right; a class that falls blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import make_header, make_store

from analysis.ensembling.bootstrap import bootstrap_draws
from analysis.ensembling.crossfit import CrossfitFolds
from analysis.ensembling.fit_postprocess import (
    ChangeCounts,
    Changes,
    PostprocessFit,
    choose_steps,
    count,
    decide,
    fit_postprocess,
)
from analysis.postprocess.label_map import SIZES, postprocess
from analysis.postprocess.options import Postprocess
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import label_map
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Vote
from trainables.metrics import confusion, miou

K, SIDE, SALT = 3, 32, 6  # the largest size is 4 of 32 x 32 pixels
IDS = tuple(f"{i}.png" for i in range(12))
FOLDS = CrossfitFolds(np.arange(12) % 3, 3, None)
DRAWS = bootstrap_draws(IDS, False, 300, 0)
ALONE = VoteBatch(ViewConfig.plain((("s1.00-none",),)), (Vote("soft", np.ones((1, K), np.float32)),))
IDLE = Postprocess(min_component=(0.0,) * K, max_hole=(0.0,) * K)


class Truth:
    """Class 0, a wide block of class 1, a small one of class 2; `salt` adds single pixels of class 2 to class 0."""

    def __init__(self, salt: bool) -> None:
        self.salt = salt

    def label(self, image_id: str) -> np.ndarray:
        label = np.zeros((SIDE, SIDE), np.uint8)
        label[:, 20:], label[24:30, 2:10] = 1, 2
        if self.salt:
            label[2:20:3, 4 + int(image_id[:-4])] = 2  # six pixels, none beside another
        label[:, 25] = 255
        return label


def predicted(root: Path, maps: dict[str, np.ndarray], truth: Truth) -> LabelledLogits:
    """A member whose labels are `maps`."""
    logits = {image_id: 9 * (np.arange(K)[:, None, None] == label) for image_id, label in maps.items()}
    store = make_store(root, make_header(classes="abc"), logits, (SIDE, SIDE))
    return LabelledLogits((store,), IDS, truth, IDS)


def filled(truth: Truth) -> dict[str, np.ndarray]:
    """The truth with its ignored pixels predicted too."""
    return {i: np.where(truth.label(i) == 255, np.uint8(1), truth.label(i)) for i in IDS}


def changes_of(data: LabelledLogits) -> Changes:
    return Changes.of([ChangeCounts.of(data, [ALONE] * FOLDS.num, FOLDS.of_image)(IDS)], K)


def fit(data: LabelledLogits) -> PostprocessFit:
    counts = count(data, ALONE, IDLE)
    return fit_postprocess(changes_of(data), data, [ALONE] * (FOLDS.num + 1), FOLDS, counts, DRAWS)


def test_salt_is_removed_and_the_gain_is_the_one_computed_by_hand(tmp_path: Path) -> None:
    found = fit(predicted(tmp_path, filled(Truth(salt=True)), Truth(salt=False)))
    assert found.steps is not None
    assert found.steps.min_component == (0.0, 0.0, SIZES[-1])
    assert found.steps.max_hole[1:] == (0.0, 0.0)  # a speck of class 2 is a hole in class 0 as well
    zero, two = 20 * SIDE - 48, 48  # pixels of class 0 and 2
    by_hand = 1 - ((zero - SALT) / zero + 1 + two / (two + SALT)) / 3
    assert found.step is not None
    assert found.step.gain == pytest.approx(by_hand, abs=1e-12)
    assert found.crossfitted is not None
    assert miou(found.crossfitted.sum(0)) == 1


def test_small_objects_that_are_right_stay(tmp_path: Path) -> None:
    maps = filled(Truth(salt=True))
    for label in maps.values():
        label[8:14, 21:24] = 0  # wrong, and not small
    found = fit(predicted(tmp_path, maps, Truth(salt=True)))
    assert found.steps is None
    assert found.reason.startswith("no class gains from either step at any size")


def test_options_that_pay_on_too_few_images_are_not_taken(tmp_path: Path) -> None:
    maps = filled(Truth(salt=False)) | {IDS[0]: filled(Truth(salt=True))[IDS[0]]}
    found = fit(predicted(tmp_path, maps, Truth(salt=False)))
    assert found.steps is None
    assert "no class and size pays alone on val: the best, components of c below 1/256 of the image" in found.reason


def test_sizes_are_chosen_on_the_images_that_are_named_alone(tmp_path: Path) -> None:
    salted, truth = filled(Truth(salt=True)), Truth(salt=False)
    data = predicted(tmp_path, filled(truth) | {i: salted[i] for i in IDS[:6]}, truth)
    counts, changes = count(data, ALONE, IDLE), changes_of(data)
    first = np.arange(12) < 6
    assert choose_steps(changes, counts, DRAWS, first).min_component[2] == SIZES[-1]
    assert choose_steps(changes, counts, DRAWS, ~first).idle


def test_the_counts_are_those_of_the_maps(tmp_path: Path) -> None:
    maps, truth = filled(Truth(salt=True)), Truth(salt=False)
    data = predicted(tmp_path, maps, truth)
    sizes = Postprocess(min_component=(0.0, 0.0, 2.0**-8), max_hole=(0.0,) * K)
    counts = count(data, ALONE, sizes)
    for i, image_id in enumerate(IDS):
        np.testing.assert_array_equal(label_map(data.stores, ALONE, image_id), maps[image_id])
        expected = confusion(truth.label(image_id), postprocess(maps[image_id], sizes), K)
        np.testing.assert_array_equal(counts[i], expected)


def right(first: int, second: int, third: int) -> np.ndarray:
    """(12,K,K): of 100 pixels of each class so many right, more or less from image to image; the others go round."""
    counts = np.zeros((12, K, K), np.int64)
    for k, hits in enumerate((first, second, third)):
        hits_of = hits + np.arange(12) % 3 - 1
        counts[:, k, k], counts[:, k, (k + 1) % K] = hits_of, 100 - hits_of
    return counts


@pytest.mark.parametrize(
    ("after", "kept", "reason"),
    [
        (right(80, 80, 60), True, "and no class loses IoU significantly"),
        (right(90, 90, 45), False, "IoU: a significant loss"),
        (right(55, 60, 60), False, "its gain does not hold"),
        (right(60, 60, 60), False, "+0.0000 [+0.0000, +0.0000] mIoU cross-fitted on 12 images, above 0 in 0%"),
    ],
)
def test_what_pays_is_kept_unless_a_class_falls(after: np.ndarray, kept: bool, reason: str) -> None:
    sizes = Postprocess(min_component=(0.1,) * K, max_hole=(0.0,) * K)
    found = decide(sizes, right(60, 60, 60), after, after, DRAWS, list("abc"))
    assert (found.steps is not None) == kept
    assert reason in found.reason
