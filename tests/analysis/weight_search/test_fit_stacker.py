"""Fits of stackers against scikit-learn, finite differences and problems whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from analysis.ensembling.rules import RULES, Sample, fit_rules
from analysis.voting.stacker import softmax
from analysis.voting.votes import Vote, vote_labels
from analysis.weight_search.fit_stacker import StackingLoss, StackingSample, fit_stacker
from analysis.weight_search.pixels import Pixels
from analysis.weight_search.strata import Strata
from trainables.metrics import confusion, miou

M, K, P = 2, 3, 1500


def problem(num_pixels: int = P, seed: int = 0, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M,K,P) of members that know labels (P,) this strongly."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, num_pixels).astype(np.uint8)
    logits = rng.normal(size=(M, K, num_pixels))
    logits[:, truth, np.arange(num_pixels)] += strength
    return np.ascontiguousarray(softmax_over_classes(logits)), truth


def softmax_over_classes(logits: np.ndarray) -> np.ndarray:
    q = np.exp(logits - logits.max(1, keepdims=True))
    return (q / q.sum(1, keepdims=True)).astype(np.float32)


def planted(num_pixels: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The truth is class 0 where the two members agree whether 1 is likelier than 2, else the class that member 0
    prefers: an exclusive or, which no weight per member and class can tell."""
    rng = np.random.default_rng(seed)
    prefers = rng.integers(1, 3, (2, num_pixels))
    truth = np.where(prefers[0] == prefers[1], 0, prefers[0]).astype(np.uint8)
    logits = 0.5 * rng.normal(size=(2, 3, num_pixels))
    for m in range(2):
        logits[m, prefers[m], np.arange(num_pixels)] += 2
    return np.ascontiguousarray(softmax_over_classes(logits)), truth


def inputs(num: int = 200) -> StackingSample:
    rng = np.random.default_rng(1)
    shares = rng.integers(1, 4, num).astype(np.float32)
    truth = rng.integers(0, K, num)
    values = rng.normal(size=(M * K, num)).astype(np.float32)
    values[0] += truth
    return StackingSample(values, np.zeros((K, num), np.float32), truth, shares / shares.sum())


def score(q: np.ndarray, truth: np.ndarray, vote: Vote) -> float:
    return float(miou(confusion(truth, vote_labels(q, vote), q.shape[1])))


def folds_of(truth: np.ndarray) -> np.ndarray:
    return np.arange(truth.size) // 50 % 3


def test_the_linear_map_is_sklearns_logistic_regression() -> None:
    sample, decay = inputs(), 0.01
    one = StackingSample(np.vstack([sample.inputs, np.ones((1, 200), np.float32)]), *vars_after(sample))
    loss = StackingLoss(M * K + 1, K, 0, 0)
    *_, found = loss.path(one, [decay] * 20)
    # ours decays the bias of the last layer too: it doubles the input of ones, whose weight then takes half of it
    theirs = LogisticRegression(C=1 / decay, fit_intercept=False, tol=1e-8, max_iter=10_000)
    columns = np.vstack([sample.inputs, np.full((1, 200), np.sqrt(2))]).T
    theirs.fit(columns, sample.truth, sample_weight=sample.shares)
    np.testing.assert_allclose(loss.predict(found, one).T, theirs.predict_proba(columns), atol=2e-4)


def vars_after(sample: StackingSample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sample.mean, sample.truth, sample.shares


@pytest.mark.parametrize("num_hidden", [0, 5])
def test_the_gradient_is_that_of_finite_differences(num_hidden: int) -> None:
    sample, loss = inputs(), StackingLoss(M * K, K, num_hidden, 0)
    rng = np.random.default_rng(2)
    at = loss.start + rng.normal(0, 0.3, loss.start.size)
    _, slope = loss(at, sample, 0.1)
    for way in rng.normal(size=(5, at.size)):
        step = 1e-3
        up, down = (loss(at + s * way, sample, 0.1)[0] for s in (step, -step))
        assert slope @ way == pytest.approx((up - down) / (2 * step), rel=1e-2, abs=2e-4)


@pytest.mark.parametrize("num_hidden", [0, 5])
def test_a_pixel_that_counts_thrice_is_three_pixels(num_hidden: int) -> None:
    sample, loss = inputs(), StackingLoss(M * K, K, num_hidden, 0)
    times = np.rint(sample.shares / sample.shares.min()).astype(int)
    repeated = sample.of(np.repeat(np.arange(200), times))
    repeated = StackingSample(repeated.inputs, repeated.mean, repeated.truth,
                              np.full(times.sum(), 1 / times.sum(), np.float32))  # fmt: skip
    values, slopes = zip(*(loss(loss.start + 0.1, s, 0.01) for s in (sample, repeated)), strict=True)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    np.testing.assert_allclose(*slopes, rtol=1e-3, atol=1e-6)


def test_strata_stand_for_repeated_pixels() -> None:
    q, truth = problem(900)
    times, folds = np.repeat([1, 3], [300, 600]), folds_of(truth)
    at = np.repeat(np.arange(900), times)
    weighed = fit_stacker(Pixels(q, truth, Strata((300, 900), (1, 3))), folds, 0)
    repeated = fit_stacker(Pixels(np.ascontiguousarray(q[:, :, at]), truth[at]), folds[at], 0)
    assert weighed.num_hidden == repeated.num_hidden
    np.testing.assert_allclose(weighed.probabilities(q), repeated.probabilities(q), atol=0.02)


@pytest.mark.parametrize("num_hidden", [0, 7])
def test_the_start_is_the_geometric_mean(num_hidden: int) -> None:
    loss, sample = StackingLoss(M * K, K, num_hidden, 3), inputs()
    sample.mean[:] = np.random.default_rng(4).normal(size=sample.mean.shape)
    np.testing.assert_array_equal(loss.predict(loss.start, sample), softmax(sample.mean))


def test_without_folds_to_choose_by_it_stays_the_geometric_mean() -> None:
    q, truth = problem()
    for folds in (None, np.zeros(P, np.int64)):
        found = vote_labels(q, Vote("stacked", np.ones((M, K), np.float32), fit_stacker(Pixels(q, truth), folds, 0)))
        np.testing.assert_array_equal(found, vote_labels(q, Vote("geometric", np.ones((M, K), np.float32))))


def test_it_finds_what_no_weights_can() -> None:
    q, truth = planted()
    fits = fit_rules(Sample(Pixels(q, truth), folds=folds_of(truth)), list(RULES))
    unseen, labels = planted(seed=1)
    scores = {name: max(score(unseen, labels, vote) for vote in votes) for name, votes in fits.items()}
    assert fits["stacked"][0].stacker.num_hidden > 0
    assert scores["stacked"] > 0.95
    assert max(value for name, value in scores.items() if name != "stacked") < 0.8


def test_equal_samples_give_equal_stackers_and_another_seed_another() -> None:
    q, truth = planted(2000)
    first, again = (fit_stacker(Pixels(q, truth), folds_of(truth), 0) for _ in range(2))
    assert first.map_key == again.map_key
    assert first.map_key != fit_stacker(Pixels(q, truth), folds_of(truth), 1).map_key


def test_ignored_pixels_and_classes_that_do_not_occur_have_no_say() -> None:
    q, truth = planted(2000)
    wide = np.concatenate([q, np.full((2, 1, 2000), 1e-7, np.float32)], axis=1)
    wide[:, :, ::7] = np.array([1, 0, 0, 0], np.float32)[:, None]
    ignored = truth.copy()
    ignored[::7] = 255
    stacker = fit_stacker(Pixels(np.ascontiguousarray(wide), ignored), folds_of(truth), 0)
    kept = np.flatnonzero(ignored != 255)
    alone = fit_stacker(Pixels(np.ascontiguousarray(q[:, :, kept]), truth[kept]), folds_of(truth)[kept], 0)
    np.testing.assert_array_equal(stacker.fitted, [True, True, True, False])
    found = stacker.probabilities(wide)
    np.testing.assert_allclose(found[:3, kept], alone.probabilities(q)[:, kept], atol=1e-4)
    np.testing.assert_allclose(found[3], softmax(np.log(np.maximum(wide, 1e-6)).mean(0))[3], rtol=1e-4)


def test_a_sample_without_labels_is_refused() -> None:
    q, truth = problem()
    with pytest.raises(ValueError, match="labelled pixels"):
        fit_stacker(Pixels(q, np.full_like(truth, 255)), None, 0)
