"""Intervals that hold what they say, a choice that noise does not make, and the sentence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from analysis.ensembling.bootstrap import Resampled, bootstrap_draws, class_gains, gain, resample, summary, widening
from analysis.ensembling.result import NO_GAIN, Gain
from analysis.ensembling.verdict import absent_classes, climb, make_verdict, select_rule, too_few_groups
from trainables.metrics import miou

K = 4


def images(rng: np.random.Generator, num: int, skill: float = 0.6, executor: float = 0.15) -> np.ndarray:
    """Counts (N,K,K) of images whose accuracy varies from one to the next."""
    out = np.zeros((num, K, K), np.int64)
    accuracy = np.clip(rng.normal(skill, executor, num), 0.05, 0.95)
    sizes = rng.multinomial(400, rng.dirichlet(np.array([4.0, 2, 1, 1]), num))  # (N,K)
    for k in range(K):
        row = np.repeat(((1 - accuracy) / (K - 1))[:, None], K, 1)
        row[:, k] = accuracy
        out[:, k] = rng.multinomial(sizes[:, k], row)
    return out


def resampled(counts: np.ndarray, seed: int = 0, num: int = 400) -> Resampled:
    return resample(counts, bootstrap_draws([str(i) for i in range(len(counts))], False, num, seed))


def unwidened(scores: Resampled, num_units: int) -> np.ndarray:
    """The mIoU of every resample as it was counted."""
    return scores.miou + (scores.mious - scores.miou) / widening(num_units)


def test_a_resample_is_the_sum_of_the_drawn_images() -> None:
    counts = images(np.random.default_rng(0), 12)
    draws = bootstrap_draws([str(i) for i in range(12)], False, 50, 0)
    scores = resample(counts, draws)
    for r in (0, 7, 49):
        drawn = np.repeat(np.arange(12), draws.times[r].astype(int))
        assert len(drawn) == 12
        assert unwidened(scores, 12)[r] == pytest.approx(float(miou(counts[drawn].sum(0))), abs=1e-12)
    assert scores.miou == miou(counts.sum(0))


@pytest.mark.parametrize("num_groups", [2, 10])
def test_groups_are_drawn_whole_however_few(num_groups: int) -> None:
    groups = [f"g{i % num_groups}" for i in range(30)]
    counts = images(np.random.default_rng(1), 30)
    draws = bootstrap_draws(groups, True, 20, 0)
    assert draws.unit == "group"
    assert draws.times.shape == (20, num_groups)
    drawn = np.concatenate([np.flatnonzero(draws.unit_of == u).repeat(int(n)) for u, n in enumerate(draws.times[3])])
    expected = pytest.approx(float(miou(counts[drawn].sum(0))), abs=1e-12)
    assert unwidened(resample(counts, draws), num_groups)[3] == expected


@pytest.mark.parametrize(("num_units", "factor"), [(2, 9.168), (10, 1.2166), (33, 1.0553), (1000, 1.0017)])
def test_the_widening_is_students_t_over_the_normal(num_units: int, factor: float) -> None:
    expected = student_t.ppf(0.975, num_units - 1) / norm.ppf(0.975) * (num_units / (num_units - 1)) ** 0.5
    assert widening(num_units) == pytest.approx(expected)
    assert widening(num_units) == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize(("num_groups", "symmetric"), [(2, True), (5, True), (6, False)])
def test_an_interval_of_few_groups_reaches_as_far_up_as_down(num_groups: int, symmetric: bool) -> None:
    """Two groups have three resamples: the lower end of a gain's interval was the gain itself."""
    rng = np.random.default_rng(6)
    draws = bootstrap_draws([f"g{i % num_groups}" for i in range(24)], True, 300, 0)
    plain, rich = images(rng, 24), images(rng, 24)
    rich[np.arange(24) % num_groups == 0] = images(rng, -(-24 // num_groups), 0.95)
    step = gain(resample(rich, draws), resample(plain, draws))
    assert step.low < step.gain < step.high
    assert ((step.high - step.gain) == pytest.approx(step.gain - step.low)) == symmetric


def test_one_group_shows_no_gain() -> None:
    rng = np.random.default_rng(4)
    weak, strong = (resample(images(rng, 20, skill), bootstrap_draws(["a"] * 20, True, 50, 0)) for skill in (0.4, 0.9))
    step = gain(strong, weak)
    assert (step.low, step.high, step.p_positive) == (None, None, 0.0)
    selection = select_rule({"best_single": weak, "soft_vote": strong})
    assert selection.taken == "best_single"
    assert "which one group of images cannot show to hold" in selection.reasons["soft_vote"]
    assert "is one group: no gain can be shown" in str(too_few_groups(1, "the hold-out", step))


def test_the_number_of_groups_that_would_do_is_the_least() -> None:
    wide = Gain(gain=0.05, low=-0.05, high=0.15, p_positive=0.9)
    said = str(too_few_groups(4, "the hold-out", wide))
    assert said.startswith("the hold-out has 4 groups, so its intervals are 1.9 times as wide as resamples of them are")
    needed = int(said.split("about ")[1].split()[0])
    half = [0.1 * (4 / n) ** 0.5 * widening(n) / widening(4) for n in (needed - 1, needed)]
    assert half[0] > 0.02 >= half[1]
    assert too_few_groups(6, "the hold-out", wide) is None


@pytest.mark.parametrize("step", [None, Gain(gain=0.05, low=0.04, high=0.06, p_positive=1.0)])
def test_few_groups_that_show_a_small_gain_widen_their_intervals_all_the_same(step: Gain | None) -> None:
    widened = (
        "val has 2 groups, so its intervals are 9.2 times as wide as resamples of them are; 6 or more show smaller"
    )
    assert str(too_few_groups(2, "val", step)).startswith(widened)


def test_intervals_hold_the_known_miou_in_at_least_93_of_100_draws() -> None:
    population = images(np.random.default_rng(2), 20000)
    known = float(miou(population.sum(0)))
    held = 0
    for seed in range(100):
        sample = np.random.default_rng([5, seed]).choice(20000, 80, replace=False)
        scores = summary(resampled(population[sample], seed))
        held += scores.low <= known <= scores.high
    assert held >= 93


def test_pure_noise_is_taken_seldom_and_ships_nothing_in_95_of_100() -> None:
    shipped = 0
    for seed in range(100):
        rng = np.random.default_rng([9, seed])
        accuracy, names = images(rng, 60), ("best_single", "best_single_class", "soft_vote", "member_class")
        val = {n: resampled(accuracy + images(rng, 60), seed, 200) for n in names}
        taken = select_rule(val).taken
        shared, plain, rich = images(rng, 60), images(rng, 60), images(rng, 60)
        step = gain(resampled(shared + rich, seed, 200), resampled(shared + plain, seed, 200))
        shipped += make_verdict(taken, 3, step, 60).ship == "ensemble"
    assert shipped <= 5


def test_the_best_rule_that_holds_is_taken_and_a_richer_equal_is_not() -> None:
    rng = np.random.default_rng(3)
    weak, strong, stronger = (images(rng, 100, skill) for skill in (0.5, 0.7, 0.72))
    rules = {"best_single": weak, "hard_vote": strong, "soft_vote": stronger, "greedy": weak, "member_class": stronger}
    scores = {name: resampled(counts) for name, counts in rules.items()}
    assert gain(scores["soft_vote"], scores["hard_vote"]).p_positive < 0.9  # a ladder would have stopped before it
    selection = select_rule(scores)
    assert selection.taken == "soft_vote"
    starts = {name: reason.partition(":")[0] for name, reason in selection.reasons.items()}
    assert [name for name, start in starts.items() if start == "taken"] == ["soft_vote"]
    assert selection.reasons["hard_vote"].endswith("above 0 in 100% of resamples, and soft_vote gains more")
    assert selection.reasons["greedy"].endswith("above 0 in 0% of resamples (90% needed)")


def test_a_dearer_step_is_taken_only_where_its_own_gain_holds() -> None:
    rng = np.random.default_rng(3)
    weak, strong, stronger = (resampled(images(rng, 100, skill)) for skill in (0.5, 0.7, 0.72))
    assert climb({"one view": weak, "two": strong, "three": stronger}) == "two"
    assert climb({"one view": weak}) == "one view"


def test_false_pixels_of_a_class_that_does_not_occur_ship_nothing() -> None:
    """30 false pixels of the single model in 100 images once shipped an ensemble that is worse in every class."""
    single = np.pad(images(np.random.default_rng(7), 100)[:, :3, :3], ((0, 0), (0, 1), (0, 1)))  # no image has class 3
    ensemble = single.copy()
    for k in range(3):
        lost = single[:, k, k] // 10
        ensemble[:, k, k] -= lost
        ensemble[:, k, (k + 1) % 3] += lost
    single[:30, 0, 3] += 1
    better, worse = resampled(single), resampled(ensemble)
    assert all((worse.iou[:3] < better.iou[:3]).tolist())
    assert gain(worse, better).high < 0
    assert select_rule({"best_single": better, "soft_vote": worse}).taken == "best_single"


def test_equal_rules_have_no_gain() -> None:
    scores = resampled(images(np.random.default_rng(4), 30))
    assert gain(scores, scores) == NO_GAIN


def test_absent_classes_are_named_with_what_their_absence_means() -> None:
    with_all, without_two = np.eye(3, dtype=np.int64)[None], np.diag([5, 0, 0]).astype(np.int64)[None]
    assert absent_classes("abc", with_all, with_all) == []
    assert absent_classes("abc", without_two, with_all) == [
        "no image of val has b, c: its mIoU is the mean over the other classes, "
        "and rules with weights per class keep the plainer rule's for b, c"
    ]
    assert absent_classes("abc", with_all, without_two) == [
        "no image of the hold-out has b, c: its mIoU is the mean over the other classes"
    ]


def test_an_absent_class_has_no_iou() -> None:
    counts = images(np.random.default_rng(5), 20)
    counts[:, 3], counts[:, :, 3] = 0, 0
    scores = summary(resampled(counts))
    assert (scores.iou[3], scores.iou_low[3], scores.iou_high[3]) == (None, None, None)
    assert all(value is not None for value in scores.iou[:3])


def step(low: float) -> Gain:
    return Gain(gain=low + 0.012, low=low, high=low + 0.025, p_positive=0.99)


@pytest.mark.parametrize(
    ("taken", "members", "low", "ship", "rule", "sentence"),
    [
        ("member_class", 3, 0.009, "ensemble", "member_class",
         "ship the ensemble of 3: +0.021 mIoU [+0.009, +0.034] over the best single model on 233 images that nothing "
         "was fitted to"),
        ("member_class", 3, -0.002, "single", "best_single",
         "ship the single model: the ensemble of 3 (member_class) was taken on val, but on 233 images that nothing was "
         "fitted to its gain was +0.010 mIoU [-0.002, +0.023], an interval that does not lie above 0"),
        ("best_single_class", 1, 0.009, "single", "best_single_class",
         "ship the single model with class weights: +0.021 mIoU [+0.009, +0.034] over the same model without them on "
         "233 images that nothing was fitted to"),
        ("best_single_class", 1, -0.002, "single", "best_single",
         "ship the single model: that model with class weights was taken on val, but on 233 images that nothing was "
         "fitted to its gain was +0.010 mIoU [-0.002, +0.023], an interval that does not lie above 0"),
        ("best_single_views", 1, 0.009, "single", "best_single_views",
         "ship the single model with its best views: +0.021 mIoU [+0.009, +0.034] over the best single model in its "
         "plain view on 233 images that nothing was fitted to"),
        ("best_single", 1, 0.0, "single", "best_single",
         "ship the single model: no richer rule gained on the images of val that it was not fitted on"),
    ],
)  # fmt: skip
def test_the_sentence(taken: str, members: int, low: float, ship: str, rule: str, sentence: str) -> None:
    verdict = make_verdict(taken, members, step(low), 233)
    assert (verdict.ship, verdict.rule, verdict.sentence) == (ship, rule, sentence)


@pytest.mark.parametrize(
    ("taken", "members", "low", "ship", "rule", "sentence"),
    [
        ("member_class", 3, 0.009, "ensemble", "postprocessed",
         "ship the ensemble of 3 with post-processing: +0.021 mIoU [+0.009, +0.034] over the best single model on"),
        ("member_class", 3, -0.002, "single", "best_single",
         "ship the single model: the ensemble of 3 with post-processing (member_class) was taken on val, but"),
        ("best_single_class", 1, 0.009, "single", "postprocessed",
         "ship the single model with class weights and post-processing: +0.021 mIoU [+0.009, +0.034] over the same "
         "model without them on"),
        ("best_single", 1, 0.009, "single", "postprocessed",
         "ship the single model with post-processing: +0.021 mIoU [+0.009, +0.034] over the same model without it on"),
        ("best_single", 1, -0.002, "single", "best_single",
         "ship the single model: that model with post-processing was taken on val, but on 233 images"),
    ],
)  # fmt: skip
def test_the_sentence_with_post_processing(
    taken: str, members: int, low: float, ship: str, rule: str, sentence: str
) -> None:
    verdict = make_verdict(taken, members, step(low), 233, postprocessed=True)
    assert (verdict.ship, verdict.rule) == (ship, rule)
    assert verdict.sentence.startswith(sentence)


def test_a_class_that_falls_has_an_interval_below_zero() -> None:
    before, after = (images(np.random.default_rng([6, n]), 60) for n in (0, 0))
    after[:, 1, 1], after[:, 1, 0] = after[:, 1, 1] // 2, after[:, 1, 0] + after[:, 1, 1] - after[:, 1, 1] // 2
    after[:, 3], after[:, :, 3] = 0, 0
    changes = class_gains(resampled(after), resampled(before))
    assert list(changes) == [0, 1, 2]
    assert changes[1].high < 0
    assert changes[1].gain == pytest.approx(resampled(after).iou[1] - resampled(before).iou[1])
