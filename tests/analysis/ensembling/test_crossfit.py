"""Folds keep groups together, and an image's own labels have no say in the candidate that scores it."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.ensembling.crossfit import CrossfitFolds, Images, choose_candidate, make_crossfit_folds, nested

IDS = [f"{i:03d}.jpg" for i in range(60)]


def test_groups_stay_together_and_folds_are_balanced() -> None:
    group_of = {image_id: f"g{int(image_id[:3]) // 4}" for image_id in IDS}
    folds = make_crossfit_folds(IDS, group_of, True, 5, seed=0)
    for group in set(group_of.values()):
        assert len({folds.of_image[i] for i, image_id in enumerate(IDS) if group_of[image_id] == group}) == 1
    assert np.bincount(folds.of_image).tolist() == [12] * 5
    assert folds.caveat is None


def test_without_groups_single_images_are_dealt_by_the_seed() -> None:
    own = {image_id: image_id for image_id in IDS}
    first, again, other = (make_crossfit_folds(IDS, own, False, 5, seed).of_image for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.bincount(first).tolist() == [12] * 5


def test_one_group_gives_contiguous_blocks_and_a_caveat() -> None:
    shuffled = [IDS[i] for i in np.random.default_rng(0).permutation(60)]
    folds = make_crossfit_folds(shuffled, dict.fromkeys(IDS, "one sequence"), True, 5, seed=0)
    by_name = [fold for _, fold in sorted(zip(shuffled, folds.of_image.tolist(), strict=True))]
    assert by_name == sorted(by_name)
    assert folds.caveat is not None
    assert "1 group" in folds.caveat


def test_fewer_groups_than_folds_are_a_fold_each() -> None:
    group_of = {image_id: f"g{int(image_id[:3]) % 3}" for image_id in IDS}
    folds = make_crossfit_folds(IDS, group_of, True, 5, seed=0)
    assert folds.num == 3
    assert folds.caveat is not None
    for group in set(group_of.values()):
        assert len({folds.of_image[i] for i, image_id in enumerate(IDS) if group_of[image_id] == group}) == 1


def test_one_image_cannot_be_cross_fitted() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        make_crossfit_folds(["a"], {"a": "a"}, False, 5, seed=0)


def counts(*hits: int) -> np.ndarray:
    """(N,2,2): image i has so many of its 100 pixels right."""
    return np.array([[[h, 100 - h], [0, 0]] for h in hits])


def test_a_folds_candidate_is_chosen_on_the_others() -> None:
    folds = CrossfitFolds(np.array([0, 0, 1, 1]), 2, None)
    plain, rich = counts(50, 50, 90, 90), counts(99, 99, 10, 10)
    found = nested([[rich, plain]], folds, Images(list("abcd"), False, 0))
    np.testing.assert_array_equal(found.counts[:2], plain[:2])  # fold 1 prefers plain, so fold 0 is scored with it
    np.testing.assert_array_equal(found.counts[2:], rich[2:])
    assert found.by_fold == ((0, 1), (0, 0))
    assert found.whole == (0, 1)


@pytest.mark.parametrize(("gains", "tier"), [([1] * 20, 1), ([9, -8] * 10, 0), ([0] * 20, 0)])
def test_a_dearer_tier_is_taken_where_its_gain_holds(gains: list[int], tier: int) -> None:
    folds = make_crossfit_folds(IDS[:20], {image_id: image_id for image_id in IDS}, False, 5, seed=0)
    cheap, dear = counts(*[50] * 20), counts(*[50 + gain for gain in gains])
    found = nested([[counts(*[40] * 20), cheap], [dear]], folds, Images(IDS[:20], False, 0))
    assert found.whole[0] == tier


def test_a_tie_goes_to_the_more_shrunk_candidate() -> None:
    same = counts(70, 70)
    assert choose_candidate([same, same, counts(60, 60)], np.ones(2, bool)) == 1
