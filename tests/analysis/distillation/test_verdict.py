"""What is said of a student, from counts that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.bundle.predictor import Image
from analysis.distillation.latency import measure_ms
from analysis.distillation.verdict import compare, sentence_of
from analysis.ensembling.bootstrap import bootstrap_draws
from analysis.ensembling.distilled_result import Latency

LATENCY = Latency(device="cpu", single_ms=10.0, ensemble_ms=60.0, distilled_ms=10.2)
N = 40


def counts(correct: float, seed: int = 0) -> NDArray[np.int64]:
    """(N,2,2): of 1000 pixels per class and image the share that is right, about."""
    right = np.rint(1000 * np.clip(correct + 0.02 * np.random.default_rng(seed).normal(size=(N, 2)), 0, 1)).astype(int)
    found = np.zeros((N, 2, 2), np.int64)
    for k in range(2):
        found[:, k, k], found[:, k, 1 - k] = right[:, k], 1000 - right[:, k]
    return found


def compared(single: float, ensemble: float, distilled: float):  # type: ignore[no-untyped-def]
    draws = bootstrap_draws([str(n) for n in range(N)], False, 200, 0)
    given = {"single": single, "rival": single, "ensemble": ensemble, "distilled": distilled}
    return compare({name: counts(share) for name, share in given.items()}, draws)


def test_a_student_keeps_a_share_of_the_gain_at_a_share_of_the_cost() -> None:
    found = compared(0.70, 0.80, 0.78)
    assert found.kept is not None
    assert found.kept.low < found.kept.share < found.kept.high
    assert found.kept.share == pytest.approx(found.over_single.gain / found.ensemble_over_single.gain)
    said = sentence_of(found, LATENCY, "soft_vote", 6)
    assert said.startswith(f"the distilled model keeps {found.kept.share:.0%} [")
    assert "of the ensemble's gain at 17% of its cost" in said
    assert "beside the ensemble of 6 (soft_vote), on 40 images that nothing was fitted to" in said
    assert found.is_better
    assert "is not shown" not in said


def test_of_a_gain_that_is_not_shown_no_share_is_named() -> None:
    found = compared(0.70, 0.70, 0.75)
    assert found.kept is None
    assert sentence_of(found, LATENCY, "soft_vote", 6).startswith(
        "the ensemble's own gain over the single model is not"
    )


def test_a_student_that_is_no_better_is_said_to_be_none() -> None:
    found = compared(0.70, 0.80, 0.69)
    assert not found.is_better
    assert sentence_of(found, LATENCY, "soft_vote", 6).endswith("; a gain over the single model is not shown")


class _Timed:
    """Takes as long as it says, by a clock that it turns on."""

    def __init__(self, now: list[float], s: float) -> None:
        self.now, self.s = now, s

    def predict(self, _image: Image) -> None:
        self.now[0] += self.s


def test_costs_are_medians_of_turns() -> None:
    now = [0.0]
    timed = {"single": _Timed(now, 0.01), "ensemble": _Timed(now, 0.06)}
    found = measure_ms(timed, [np.zeros((1, 1, 3), np.uint8)] * 2, lambda: now[0])  # type: ignore[arg-type]
    assert found == pytest.approx({"single": 10.0, "ensemble": 60.0})
