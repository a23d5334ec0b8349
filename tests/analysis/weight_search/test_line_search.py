"""The line search against brute force over every stretch between events."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.weight_search.line_search import (
    ABSENT,
    Counts,
    Events,
    WeightInterval,
    best_edge,
    best_plateau,
    flag_bins,
    hits_union,
    mean_iou,
    row_of,
)
from trainables.metrics import miou

K = 4
SPAN = WeightInterval(0.25, 3.0, 16)


def line(seed: int, num_events: int = 60) -> tuple[np.ndarray, np.ndarray, Events]:
    """Labels of pixels and their classes where the line begins; later events change one pixel each, once or twice."""
    rng = np.random.default_rng(seed)
    truth, label = rng.integers(0, K, (2, 200)).astype(np.uint8)
    low, high = SPAN.ends_u
    u = np.sort(rng.uniform(low, high, num_events)).astype(np.float32)
    u[5:8] = u[5]  # several at one point
    now, old, new, pixels = label.copy(), [], [], rng.integers(0, 200, num_events)
    for i in pixels:
        old.append(now[i])
        now[i] = (now[i] + rng.integers(1, K)) % K
        new.append(now[i])
    ones = np.ones(num_events, np.int32)
    return truth, label, Events(u, np.array(old, np.uint8), np.array(new, np.uint8), truth[pixels], ones)


def confusion_of(truth: np.ndarray, label: np.ndarray) -> np.ndarray:
    counts = np.zeros((K, K), np.int64)
    np.add.at(counts, (truth, label), 1)
    return counts


def histogram(events: Events) -> Counts:
    hist, low = SPAN.histogram(K), SPAN.ends_u[0]
    for u, old, new, truth, weight in zip(*events.columns, strict=True):
        row = row_of(u, low, SPAN.scale, SPAN.num_bins)
        hist[row, old, 0 if truth == old else 1] += weight
        hist[row, new, 2 if truth == new else 3] += weight
    return hist


def stretches(truth: np.ndarray, label: np.ndarray, events: Events) -> list[tuple[float, float, float]]:
    """(mIoU, from u, to u) of every stretch between two events, by counting again after each."""
    counts, found, start = confusion_of(truth, label), [], float(SPAN.ends_u[0])
    for u, old, new, true, _ in zip(*events.columns, strict=True):
        found.append((float(miou(counts)), start, float(u)))
        counts[true, old] -= 1
        counts[true, new] += 1
        start = float(u)
    return [*found, (float(miou(counts)), start, float(SPAN.ends_u[1]))]


def widest_best(found: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The best mIoU and the widest run of stretches that have it."""
    best = max(value for value, low, high in found if high > low)
    runs: list[list[float]] = []
    for value, low, high in found:
        if high == low:
            continue
        if value == best and runs and runs[-1][1] == low:
            runs[-1][1] = high
        elif value == best:
            runs.append([low, high])
    low, high = max(runs, key=lambda run: run[1] - run[0])
    return best, low, high


@pytest.mark.parametrize("flags", ["all", "needed"])
@pytest.mark.parametrize("seed", range(8))
def test_the_plateau_is_the_widest_of_the_best_stretches(seed: int, flags: str) -> None:
    truth, label, events = line(seed)
    hist, (hits, union) = histogram(events), hits_union(confusion_of(truth, label))
    flagged = np.ones(SPAN.num_bins + 1, bool) if flags == "all" else flag_bins(hist, hits, union, 0.0)
    rows = np.array([row_of(u, SPAN.ends_u[0], SPAN.scale, SPAN.num_bins) for u in events.u])
    found = best_plateau(hist, flagged, events.where(flagged[rows]), hits, union, SPAN)
    best, low, high = widest_best(stretches(truth, label, events))
    assert found.miou == pytest.approx(best, abs=1e-12)
    if flags == "all":
        assert (found.low, found.high) == (low, high)
    assert SPAN.low <= found.middle_weight <= SPAN.high


@pytest.mark.parametrize("seed", range(8))
def test_a_bin_that_is_not_flagged_has_no_better_stretch(seed: int) -> None:
    truth, label, events = line(seed)
    hits, union = hits_union(confusion_of(truth, label))
    found = stretches(truth, label, events)
    best = max(value for value, _, _ in found)
    flagged = flag_bins(histogram(events), hits, union, best - 0.003)
    for (value, *_), u in zip(found[1:], events.u, strict=True):  # the stretch that begins at u
        assert value < best - 1e-12 or flagged[row_of(u, SPAN.ends_u[0], SPAN.scale, SPAN.num_bins)]
    assert not flag_bins(histogram(events), hits, union, 1.0).any()


@pytest.mark.parametrize("seed", range(8))
def test_the_best_edge_has_the_mIoU_that_it_says(seed: int) -> None:
    truth, label, events = line(seed)
    value, weight = best_edge(histogram(events), *hits_union(confusion_of(truth, label)), SPAN)
    edge = weight / (1 + weight)
    at_edge = [score for score, low, high in stretches(truth, label, events) if low - 1e-6 <= edge <= high + 1e-6]
    assert any(value == pytest.approx(score, abs=1e-12) for score in at_edge)
    assert SPAN.low - 1e-6 <= weight <= SPAN.high + 1e-5


def test_pixels_that_count_thrice_are_three_pixels() -> None:
    truth, label, events = line(3)
    hits, union = hits_union(confusion_of(truth, label))
    thrice = Events(*events.columns[:4], 3 * events.weight)
    flagged = np.ones(SPAN.num_bins + 1, bool)
    once = best_plateau(histogram(events), flagged, events, hits, union, SPAN)
    assert best_plateau(histogram(thrice), flagged, thrice, 3 * hits, 3 * union, SPAN) == once


def test_what_rounding_alone_keeps_apart_is_no_plateau() -> None:
    """Two pixels that change at nearly one weight: the mIoU between them is the line's best, and out of reach."""
    truth, label = np.array([0, 0, 1, 1, 2, 3], np.uint8), np.array([1, 0, 1, 1, 2, 3], np.uint8)
    u = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float32)
    ones = np.ones(2, np.int32)
    events = Events(u, np.array([1, 1], np.uint8), np.array([0, 0], np.uint8), np.array([0, 1], np.uint8), ones)
    hist, (hits, union) = histogram(events), hits_union(confusion_of(truth, label))
    between = truth.copy()
    assert miou(confusion_of(truth, between)) == 1  # after the first event alone
    found = best_plateau(hist, np.ones(SPAN.num_bins + 1, bool), events, hits, union, SPAN)
    assert found.miou == pytest.approx(max(miou(confusion_of(truth, label)), miou(confusion_of(truth, ends(label)))))


def ends(label: np.ndarray) -> np.ndarray:
    """The labels after both events."""
    after = label.copy()
    after[[0, 2]] = 0
    return after


def test_merged_events_are_sorted_and_lose_none() -> None:
    events = line(0)[2]
    order = np.random.default_rng(0).permutation(events.u.size)
    merged = Events.merged([events.where(order[:20]), events.where(order[20:])])
    np.testing.assert_array_equal(merged.u, events.u)
    assert sorted(zip(*merged.columns, strict=True)) == sorted(zip(*events.columns, strict=True))


def test_the_mean_is_that_of_the_metrics_module_and_0_where_no_class_occurs() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (K, K))
    counts[2], counts[:, 2] = 0, 0
    assert mean_iou(*hits_union(counts)) == pytest.approx(float(miou(counts)))
    assert mean_iou(np.zeros(K, np.int64), np.full(K, ABSENT)) == 0


@pytest.mark.parametrize("seed", range(4))
def test_pixels_taken_by_a_class_that_does_not_occur_cost_their_own_class_alone(seed: int) -> None:
    truth, label, events = line(seed)
    kept = truth != K - 1  # the last class is predicted, and occurs nowhere
    events = events.where(events.truth != K - 1)
    hist, (hits, union) = histogram(events), hits_union(confusion_of(truth[kept], label[kept]))
    found = best_plateau(hist, np.ones(SPAN.num_bins + 1, bool), events, hits, union, SPAN)
    best, low, high = widest_best(stretches(truth[kept], label[kept], events))
    assert found.miou == pytest.approx(best, abs=1e-12)
    assert (found.low, found.high) == (low, high)
