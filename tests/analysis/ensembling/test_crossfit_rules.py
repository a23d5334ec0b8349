"""Candidates of every rule, fitted to the images that are kept and to no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import make_sample

from analysis.ensembling.crossfit import CrossfitFolds, Images
from analysis.ensembling.crossfit_rules import Choice, RuleCandidates, fit_candidates, fit_folds
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.rules import CONTAINED, JOINT, OWN_VIEWS, PLAIN, RULES, UNCALIBRATED
from analysis.ensembling.view_selection import SelectedViews, select_views
from analysis.voting.view_config import ViewConfig
from analysis.voting.votes import Vote, single

SAMPLE = make_sample(((2.5, 2.0), (2.0, 1.5), (1.0,)), num_images=12, per_image=50)
FOLDS, IMAGES = CrossfitFolds(np.arange(12) % 3, 3, None), Images([str(i) for i in range(12)], False, 0, 60)
K = 3
CALIBRATING = EnsembleOptions(max_sweeps=1)
OPTIONS = CALIBRATING.model_copy(update={"temperature": "off"})
COSTS = ((1.0, 1.0), (1.0, 1.0), (1.0,))
KEPT = FOLDS.of_image != 0


@pytest.fixture(scope="module")
def selected() -> SelectedViews:
    return select_views(SAMPLE, FOLDS, IMAGES, COSTS, None)


@pytest.fixture(scope="module")
def fitted(selected: SelectedViews) -> RuleCandidates:
    return fit_candidates(SAMPLE, KEPT, selected.without[0], IMAGES, OPTIONS)


def keys(candidates: RuleCandidates) -> list[tuple[object, ...]]:
    return [(batch.view_config, vote.key) for batch in candidates.batches for vote in batch.votes]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_candidates_in_its_own_views(
    rule: str, fitted: RuleCandidates, selected: SelectedViews
) -> None:
    views = selected.without[0]
    expected = {**dict.fromkeys(PLAIN, (views.plain,)), **dict.fromkeys(OWN_VIEWS, (views.own,))}
    tiers = fitted.of(rule)
    assert len(tiers) == (2 if rule in JOINT else 1)  # the lean view configuration and the fullest
    for tier, (places, config) in enumerate(zip(tiers, expected.get(rule, views.joint), strict=True)):
        plain = [views.plain] * len(fitted.of(CONTAINED[rule])[0]) if rule in CONTAINED and tier == 0 else []
        configs = [*plain, *[config] * (len(places) - len(plain))]
        assert len(configs) > len(plain)
        for place, seen in zip(places, configs, strict=True):
            choice = fitted.choice(place)
            assert choice.view_config == seen
            assert choice.vote.weights.shape == (3, K)
            assert set(choice.vote.used) <= set(seen.members)


def test_halfway_are_the_middle_candidates_of_each_batch(fitted: RuleCandidates) -> None:
    for rule in RULES:
        every, middle = fitted.of(rule), fitted.of(rule, halfway=True)
        # without calibrated ones a tier is one batch, and the first that of a contained rule as well
        assert [len(tier) for tier in middle] == [1 + (rule in CONTAINED), *[1] * (len(every) - 1)]
        for some, all_of in zip(middle, every, strict=True):
            last = [place for place in all_of if place[0] == some[-1][0]]
            assert some[-1] == last[len(last) // 2]
    whole, half = (fitted.choice(fitted.of("soft_class")[0][v]).vote.weights for v in (0, 2))
    np.testing.assert_allclose(half, (whole * half.size / whole.sum() + 1) / 2, rtol=1e-5)


def test_a_rule_has_the_candidates_of_the_single_model_that_it_contains(fitted: RuleCandidates) -> None:
    for richer, plain in CONTAINED.items():
        mine = [fitted.choice(place) for tier in fitted.of(richer) for place in tier]
        for place in fitted.of(plain)[0]:
            contained = fitted.choice(place)
            assert any(one.view_config == contained.view_config and one.vote.key == contained.vote.key for one in mine)


def test_labels_of_images_that_are_left_out_have_no_say(fitted: RuleCandidates, selected: SelectedViews) -> None:
    out = ~KEPT[SAMPLE.image]
    truth = np.where(out, (SAMPLE.truth + 1) % K, SAMPLE.truth).astype(np.uint8)
    other = fit_candidates(replace(SAMPLE, truth=truth), KEPT, selected.without[0], IMAGES, OPTIONS)
    assert keys(other) == keys(fitted)


def test_labels_of_images_that_are_kept_have(fitted: RuleCandidates, selected: SelectedViews) -> None:
    truth = np.where(KEPT[SAMPLE.image], (SAMPLE.truth + 1) % K, SAMPLE.truth).astype(np.uint8)
    other = fit_candidates(replace(SAMPLE, truth=truth), KEPT, selected.without[0], IMAGES, OPTIONS)
    assert keys(other) != keys(fitted)


def test_calibrated_candidates_come_before_the_plain_ones(fitted: RuleCandidates, selected: SelectedViews) -> None:
    both = fit_candidates(SAMPLE, KEPT, selected.without[0], IMAGES, CALIBRATING)
    for rule in (name for name in JOINT if name not in UNCALIBRATED):
        for places, plain in zip(both.of(rule), fitted.of(rule), strict=True):
            configs = [both.choice(place).view_config for place in places]
            configs = [config for config in configs if len(config.members) > 1]
            half = len(configs) // 2
            assert len([p for p in plain if len(fitted.choice(p).view_config.members) > 1]) == half
            assert all(t == 1.0 for config in configs[half:] for t in config.temperatures)
            assert any(t != 1.0 for t in configs[0].temperatures)
    for rule in UNCALIBRATED:
        assert both.of(rule) != fitted.of(rule)  # other batches
        same = ([one.choice(p).vote.key for tier in one.of(rule) for p in tier] for one in (both, fitted))
        assert next(same) == next(same)
    assert [both.choice(p).vote.key for p in both.of("best_single")[0]] == [
        fitted.choice(p).vote.key for p in fitted.of("best_single")[0]
    ]


def test_folds_are_fitted_each_without_its_own_images(fitted: RuleCandidates, selected: SelectedViews) -> None:
    said: list[str] = []
    fits = fit_folds(SAMPLE, selected, FOLDS, IMAGES, OPTIONS, said.append)
    assert len(fits.without) == len(said) == FOLDS.num
    assert keys(fits.without[0]) == keys(fitted)
    assert fits.whole.batches[0].view_config == selected.whole.plain


def test_a_member_without_weight_needs_no_view() -> None:
    config = ViewConfig.plain((("a", "b"), ("a",), ()))
    assert Choice(config, Vote("soft", single(3, K, 1))).used_views == ((), ("a",), ())
