"""The exact search against brute force over all breakpoints, and against a recount of every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.voting.votes import single
from analysis.weight_search.coordinate_search import MAX_WEIGHT, Fit, Free, _Search, fit_pixels
from analysis.weight_search.pixels import Pixels
from analysis.weight_search.sample_confusion import sample_confusion
from analysis.weight_search.strata import Strata
from analysis.weight_search.top_scores import UNKNOWN
from trainables.metrics import miou


def problem(
    seed: int, num_members: int = 3, num_classes: int = 4, num_pixels: int = 150
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M,K,P) that know something about labels (P,), of which some are ignored."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(num_classes, num_pixels, p=rng.dirichlet(np.full(num_classes, 2.0))).astype(np.uint8)
    logits = rng.normal(size=(num_members, num_classes, num_pixels))
    logits[:, truth, np.arange(num_pixels)] += rng.uniform(0, 2, (num_members, 1))
    q = np.exp(logits)
    truth[rng.random(num_pixels) < 0.1] = 255
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


def score(q: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> float:
    return float(miou(sample_confusion(q, weights.astype(np.float32), truth)))


def between(points: list[float]) -> np.ndarray:
    """One weight inside every stretch of (0, MAX_WEIGHT) that no breakpoint cuts."""
    cuts = np.unique([0.0, *(p for p in points if 0 < p < MAX_WEIGHT), MAX_WEIGHT])
    middles: np.ndarray = 0.5 * (cuts[1:] + cuts[:-1])
    return middles


def best_of_one_weight(q: np.ndarray, w: np.ndarray, truth: np.ndarray, m: int, k: int) -> float:
    rest = w.copy()
    rest[m, k] = 0
    scores = np.einsum("mk,mkp->kp", rest.astype(np.float64), q)
    rival = np.delete(scores, k, 0).max(0)
    best = 0.0
    for x in between(list((rival - scores[k]) / q[m, k])):
        trial = w.copy()
        trial[m, k] = x
        best = max(best, score(q, trial, truth))
    return best


def best_along(q: np.ndarray, w: np.ndarray, truth: np.ndarray, direction: np.ndarray, fixed: np.ndarray) -> float:
    """Best mIoU of fixed + x * direction over all crossings of two classes' lines in any pixel."""
    rise = np.einsum("mk,mkp->kp", direction.astype(np.float64), q)
    start = np.einsum("mk,mkp->kp", fixed.astype(np.float64), q)
    crossings: list[float] = []
    for j in range(len(rise)):
        for k in range(j):
            with np.errstate(divide="ignore", invalid="ignore"):
                crossings += list((start[k] - start[j]) / (rise[j] - rise[k]))
    top = MAX_WEIGHT / direction.max()
    return max(score(q, fixed + x * direction, truth) for x in between([c for c in crossings if c < top]) if x < top)


@pytest.mark.parametrize("num_bins", [4, 1024])
@pytest.mark.parametrize("seed", range(6))
def test_one_weight_finds_the_best_of_all_breakpoints(seed: int, num_bins: int) -> None:
    q, truth = problem(seed)
    w = np.random.default_rng(seed).uniform(0, 2, (3, 4)).astype(np.float32)
    for m, k in [(0, 0), (1, 2), (2, 3)]:
        search = _Search(Pixels(q, truth), w, num_bins)
        search.move_weights(k, [m], whole=True)
        assert search.miou == pytest.approx(max(score(q, w, truth), best_of_one_weight(q, w, truth, m, k)), abs=1e-12)
        assert search.miou == score(q, search.weights, truth)


@pytest.mark.parametrize("num_bins", [4, 1024])
@pytest.mark.parametrize("seed", range(6))
def test_scaling_a_class_finds_the_best_of_all_breakpoints(seed: int, num_bins: int) -> None:
    q, truth = problem(seed)
    w = np.random.default_rng(seed).uniform(0.2, 2, (3, 4)).astype(np.float32)
    k = seed % 4
    column, rest = np.zeros_like(w), w.copy()
    column[:, k], rest[:, k] = w[:, k], 0
    search = _Search(Pixels(q, truth), w, num_bins)
    search.scale_class(k, whole=True)
    assert search.miou == pytest.approx(max(score(q, w, truth), best_along(q, w, truth, column, rest)), abs=1e-12)


@pytest.mark.parametrize("num_bins", [4, 1024])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("uniform", [True, False])
def test_scaling_a_member_finds_the_best_of_all_crossings(seed: int, num_bins: int, uniform: bool) -> None:
    q, truth = problem(seed)
    w = np.random.default_rng(seed).uniform(0.2, 2, (3, 4)).astype(np.float32)
    if uniform:
        w = np.repeat(w[:, :1], 4, axis=1)
    m = seed % 3
    row, rest = np.zeros_like(w), w.copy()
    row[m], rest[m] = (1.0 if uniform else w[m]), 0
    search = _Search(Pixels(q, truth), w, num_bins)
    search.move_member(m, uniform, whole=True)
    assert search.miou == pytest.approx(max(score(q, w, truth), best_along(q, w, truth, row, rest)), abs=1e-12)


def fit(q: np.ndarray, truth: np.ndarray, free: Free, **options: int) -> Fit:
    return fit_pixels(Pixels(q, truth), [np.ones(q.shape[:2], np.float32)], free, **options)


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
@pytest.mark.parametrize("seed", range(4))
def test_a_fit_never_falls_and_its_counts_are_those_of_a_recount(seed: int, free: Free) -> None:
    q, truth = problem(seed, num_members=4, num_classes=6, num_pixels=4000)
    result = fit(q, truth, free, num_bins=64)
    labels = np.einsum("mk,mkp->kp", result.weights, q, dtype=np.float32).argmax(0)
    counts = np.zeros((6, 6), np.int64)
    np.add.at(counts, (truth[truth != 255], labels[truth != 255]), 1)
    assert (np.diff(result.trace) > 0).all()
    assert result.trace[-1] == result.miou == miou(result.confusion)
    np.testing.assert_array_equal(result.confusion, counts)


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_equal_input_gives_equal_weights(free: Free) -> None:
    q, truth = problem(3, num_pixels=2000)
    np.testing.assert_array_equal(fit(q, truth, free).weights, fit(q, truth, free).weights)


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_only_what_is_free_moves(free: Free) -> None:
    q, truth = problem(5, num_pixels=1000)
    weights = fit(q, truth, free).weights
    assert (free == "class") == bool((weights == weights[:1]).all())
    assert (free == "member") == bool((weights == weights[:, :1]).all())


def test_two_members_each_perfect_on_half_of_the_classes_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, 6000).astype(np.uint8)
    q = np.full((2, 6, 6000), 0.02, np.float32)
    for m in range(2):
        own = (truth < 3) == (
            m == 0
        )  # the classes that this member knows; elsewhere it names one of the others' at random
        named = np.where(own, truth, rng.integers(0, 3, 6000) + 3 * (1 - m)).astype(int)
        q[m, named, np.arange(6000)] = 0.9
    result = fit(q, truth, "member_class")
    assert score(q, np.ones((2, 6)), truth) < 0.9
    assert result.miou == 1.0


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_probabilities_of_exactly_zero_and_one_are_searched_too(hard: float) -> None:
    q, truth = problem(2, num_pixels=500)
    q = (q == q.max(1, keepdims=True)).astype(np.float32) if hard else np.zeros_like(q)
    result = fit(q, truth, "member_class")
    assert result.miou == score(q, result.weights, truth) >= score(q, np.ones((3, 4)), truth)


@pytest.mark.parametrize("seed", range(4))
def test_no_weight_is_a_mere_trace(seed: int) -> None:
    q, truth = problem(seed, num_members=4, num_classes=6, num_pixels=4000)
    result = fit(q, truth, "member_class")
    kept = result.weights[result.weights > 0]
    assert kept.min() >= 1e-3 * result.weights.max(0).min()
    assert result.miou == score(q, result.weights, truth) >= result.trace[-1]


def place_in_plateau(q: np.ndarray, w: np.ndarray, truth: np.ndarray, m: int, k: int) -> float:
    """Where W[m,k] lies between the breakpoints at which the mIoU changes next, 0 to 1 of the stretch in w/(1+w)."""
    rest = w.astype(np.float64)
    rest[m, k] = 0
    scores = np.einsum("mk,mkp->kp", rest, q)
    points = (np.delete(scores, k, 0).max(0) - scores[k])[truth != 255] / q[m, k, truth != 255]
    cuts = np.concatenate([[0.0], np.unique(points[(points > 0) & (points < MAX_WEIGHT)]), [MAX_WEIGHT]])

    def as_good(stretch: int) -> bool:
        trial = w.copy()
        trial[m, k] = 0.5 * (cuts[stretch] + cuts[stretch + 1])
        return score(q, trial, truth) == score(q, w, truth)

    low = high = int(np.searchsorted(cuts, w[m, k])) - 1
    while low > 0 and as_good(low - 1):
        low -= 1
    while high < len(cuts) - 2 and as_good(high + 1):
        high += 1
    here, start, end = (x / (1 + x) for x in (float(w[m, k]), cuts[low], cuts[high + 1]))
    return float((here - start) / (end - start))


def test_weights_end_well_inside_their_plateaus_or_at_zero() -> None:
    """Without the last pass, 15% of such weights lie within a twentieth of an edge, and 29% in the middle half."""
    places, num_zeros = [], 0
    for seed in range(4):
        q, truth = problem(seed, num_pixels=800)
        weights = fit_pixels(Pixels(q, truth), [np.ones((3, 4), np.float32)], "member_class").weights
        used = [(m, k) for m in range(3) for k in range(4) if weights[m, k] > 0]
        num_zeros += 12 - len(used)
        places += [place_in_plateau(q, weights, truth, m, k) for m, k in used]
    inside = np.abs(np.array(places) - 0.5)
    assert (inside < 0.25).mean() > 0.6
    assert (inside > 0.45).mean() < 0.1
    assert num_zeros > 0


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_centring_loses_nothing_and_silences_no_class(free: Free) -> None:
    q, truth = problem(3)
    search = _Search(Pixels(q, truth), fit_pixels(Pixels(q, truth), [np.ones((3, 4), np.float32)], free).weights, 64)
    before = search.miou
    search.centre(free)
    assert search.miou >= before
    assert score(q, search.weights, truth) == search.miou
    assert search.weights.any(0).all()


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    q, truth = problem(7, num_pixels=800)
    truth[truth == 3] = 2
    result = fit(q, truth, "member_class")
    assert result.miou == miou(result.confusion)
    assert (result.weights[:, 3] > 0.5).all()  # nothing was learnt about it: it moves where a whole member does


@pytest.mark.parametrize("coarse_pixels", [200, 32768])
def test_the_end_is_no_worse_than_any_start(coarse_pixels: int) -> None:
    q, truth = problem(9, num_pixels=3000)
    starts = [np.ones((3, 4), np.float32), single(3, 4, 0), single(3, 4, 2)]
    result = fit_pixels(Pixels(q, truth), starts, "member_class", coarse_pixels=coarse_pixels)
    assert result.miou == score(q, result.weights, truth)
    assert all(result.miou >= score(q, start, truth) for start in starts)
    assert result.converged


def test_a_sample_without_labels_is_refused() -> None:
    q, truth = problem(0)
    with pytest.raises(ValueError, match="labelled pixels"):
        fit(q, np.full_like(truth, 255), "class")


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_the_end_is_an_optimum_of_every_weight_over_its_whole_range(free: Free) -> None:
    q, truth = problem(11, num_pixels=400)
    result = fit_pixels(Pixels(q, truth), [np.ones((3, 4), np.float32)], free, min_gain=1e-12, max_sweeps=200)
    assert result.converged
    for at in range(12) if free == "member_class" else ():
        assert best_of_one_weight(q, result.weights, truth, at // 4, at % 4) <= result.miou + 1e-12
    for k in range(4) if free == "class" else ():
        column = np.where(np.arange(4) == k, result.weights, 0)
        assert best_along(q, result.weights, truth, column, result.weights - column) <= result.miou + 1e-12


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_weights_that_are_all_zero_are_never_found(free: Free) -> None:
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(400) < 0.9, 0, rng.integers(1, 3, 400)).astype(np.uint8)  # naming class 0 is best
    q = np.ascontiguousarray(rng.dirichlet(np.ones(3), (2, 400)).transpose(0, 2, 1).astype(np.float32))
    starts = [np.ones((2, 3), np.float32), *(single(2, 3, m) for m in range(2))]
    assert fit_pixels(Pixels(q, truth), starts, free).weights.any()


def test_what_a_short_line_leaves_out_cannot_change_there() -> None:
    q, truth = problem(12, num_pixels=3000)
    w = np.random.default_rng(0).uniform(0.2, 2, (3, 4)).astype(np.float32)
    for k in range(4):
        search = _Search(Pixels(q, truth), w, 64)
        search.move_weights(k, range(3), whole=False)
        assert search.miou == score(q, search.weights, truth)
        fresh = _Search(Pixels(q, truth), search.weights, 64)
        for search_after in (search, fresh):
            search_after.sweep("member_class", whole=True)
        np.testing.assert_array_equal(search.weights, fresh.weights)


@pytest.mark.parametrize("seed", range(4))
def test_the_highest_scores_stay_in_step_with_the_weights(seed: int) -> None:
    q, truth = problem(seed, num_classes=6, num_pixels=2000)
    part = Pixels(q, truth)
    search = _Search(part, np.random.default_rng(seed).uniform(0.1, 2, (3, 6)).astype(np.float32), 64)
    for whole in (False, False, True, False):
        search.sweep("member_class", whole)
        assert part.state is not None
        scores = np.zeros((6, 2000), np.float32)
        for m in range(3):
            scores += search.weights[m][:, None] * q[m]
        at = np.arange((truth != 255).sum())
        best, second, third, who, runner, scores = (x[..., truth != 255] for x in (*part.state, scores))
        np.testing.assert_array_equal(who, scores.argmax(0))
        np.testing.assert_array_equal(best, scores.max(0))
        known = runner != UNKNOWN
        scores[who, at] = -1
        np.testing.assert_array_equal(runner[known], scores.argmax(0)[known])
        np.testing.assert_array_equal(second[known], scores.max(0)[known])
        assert (second >= scores.max(0)).all()
        scores[runner[known], at[known]] = -1
        assert (third >= scores.max(0)).all()
        assert known.mean() > 0.5


@pytest.mark.parametrize("free", ["class", "member", "member_class"])
def test_a_pixel_that_counts_three_times_is_one_that_occurs_three_times(free: Free) -> None:
    q, truth = problem(13, num_pixels=900)
    strata = Strata((400, 900), (1, 3))
    twin = np.arange(900).repeat(strata.per_pixel())
    start = [np.ones((3, 4), np.float32)]
    weighted = fit_pixels(Pixels(q, truth, strata), start, free, coarse_pixels=10**6)
    copied = fit_pixels(Pixels(np.ascontiguousarray(q[:, :, twin]), truth[twin]), start, free, coarse_pixels=10**6)
    assert weighted.trace[0] == pytest.approx(copied.trace[0], abs=0.02)  # the smoothed sums round differently
    for search in (
        _Search(Pixels(q, truth, strata), start[0], 64),
        _Search(Pixels(np.ascontiguousarray(q[:, :, twin]), truth[twin]), start[0], 64),
    ):
        for whole in (False, True):
            search.sweep(free, whole)
        if search.pixels.strata == strata:  # type: ignore[attr-defined]
            expected = search
    np.testing.assert_array_equal(search.weights, expected.weights)
    assert search.trace == expected.trace
    np.testing.assert_array_equal(search.hits, expected.hits)


def test_a_member_line_with_more_events_than_there_is_room_for_is_walked_again() -> None:
    q, truth = problem(15, num_pixels=2000)
    weights = np.random.default_rng(0).uniform(0.2, 2, (3, 4)).astype(np.float32)
    ends = []
    for room in (2000, 7):
        part = Pixels(q, truth)
        part.spare = tuple(column[:room] for column in part.spare)  # type: ignore[assignment]
        search = _Search(part, weights, 64)
        search.move_member(1, False, whole=True)
        assert search.miou > search.trace[0]
        ends.append(search.weights)
    np.testing.assert_array_equal(*ends)
