"""Val, train and folds against the test images: a planted shift is found in the set that has it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.dataset.adversarial_validation import MIN_IMAGES, Auc
from analysis.dataset.distribution_shift import DistributionShift, compare_sets, sentence
from analysis.dataset.image_features import FEATURES, named_features


def read(name: str) -> NDArray[np.uint8]:
    """Noise; of the images named dark, darker."""
    rng = np.random.default_rng(list(name.encode()))
    image = rng.integers(60, 200, (24, 24, 3)) - 55 * name.startswith("dark")
    return image.astype(np.uint8)


IDS = {part: tuple(f"{part}/{n}.png" for n in range(16)) for part in ("dark", "light", "test")}


@pytest.fixture(scope="module")
def shift() -> DistributionShift:
    sets = {"val": IDS["dark"], "fold 0": IDS["light"], "fold 1": IDS["light"][:3]}
    return compare_sets(sets, "unlabelled", IDS["test"], read, {}, seed=0, backbone="test_resnet")


def test_the_set_with_the_shift_is_told_apart_and_the_other_is_not(shift: DistributionShift) -> None:
    assert shift.aucs["val"].low > 0.9
    assert shift.aucs["fold 0"].holds_half
    assert shift.most_alike == "fold 0"
    assert sentence(shift).startswith("val does not look like the unlabelled images (AUC ")
    named = sentence(shift).split("; ")[1].removeprefix("the clearest difference is ")
    assert named in FEATURES


def test_a_fold_that_is_too_small_is_left_out_with_a_reason(shift: DistributionShift) -> None:
    assert shift.skipped == {"fold 1": f"3 images, fewer than {MIN_IMAGES}"}
    assert "fold 1" not in shift.aucs


def test_scores_come_in_the_order_of_the_ids_and_only_the_first_set_is_compared_in_full(
    shift: DistributionShift,
) -> None:
    assert (shift.candidate_ids, shift.target_ids) == (IDS["dark"], IDS["test"])
    assert shift.main.scores_a.shape == shift.main.scores_b.shape == (16,)
    assert set(shift.main.features) == set(FEATURES)
    assert set(shift.main.families) == {"colour", "light", "texture", "shape", "network"}
    row = list(FEATURES).index("brightness")
    medians = [np.median([named_features(read(i))[row] for i in IDS[part]]) for part in ("dark", "test")]
    assert shift.main.features["brightness"][1:] == pytest.approx(medians, rel=1e-4)


def test_its_json_has_every_number_of_the_comparison(shift: DistributionShift) -> None:
    content = json.loads(json.dumps(shift.as_json(), allow_nan=False))
    assert content["candidates"]["val"] == content["auc"]
    assert content["candidates"].keys() == {"val", "fold 0"}
    assert content["features"].keys() == FEATURES.keys()
    assert content["most_alike"] == "fold 0"


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        (Auc(0.52, 0.4, 0.6), "val cannot be distinguished from the hold-out's images"),
        (Auc(0.3, 0.2, 0.4), "no difference between val and the hold-out's images that a classifier could use"),
        (Auc(0.6, 0.55, 0.7), "val differs slightly from the hold-out's images"),
        (Auc(0.8, 0.7, 0.9), "val differs from the hold-out's images"),
        (Auc(0.95, 0.9, 0.99), "val does not look like the hold-out's images"),
    ],
)
def test_the_verdict_in_words(shift: DistributionShift, auc: Auc, words: str) -> None:
    told = sentence(replace(shift, target="holdout", main=replace(shift.main, auc=auc)))
    assert told.startswith(f"{words} (AUC {auc.value:.2f}, 95% {auc.low:.2f} to {auc.high:.2f})")


def test_too_few_test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="8 images"):
        compare_sets({"val": IDS["light"]}, "holdout", IDS["test"][:3], read, {}, seed=0, backbone="test_resnet")
