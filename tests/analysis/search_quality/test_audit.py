"""The audit of early stopping against simulated searches whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.search_quality import Curve, audit, audit_curves

EPOCHS = 9


def curve(trial: str, mious: list[float], known: bool = True, bracket: str = "a") -> Curve:
    return Curve(trial, bracket, known, dict(enumerate(mious, start=1)))


def rising(final: float, last: int = EPOCHS, early: float = 0.0) -> list[float]:
    """To `final` at epoch 9, `early` higher at the first epochs."""
    return [final * epoch / EPOCHS + early * (1 - epoch / EPOCHS) for epoch in range(1, last + 1)]


def test_curves_that_never_cross_agree_perfectly_and_need_no_grace() -> None:
    found = audit_curves([curve(str(n), rising(0.1 * n)) for n in range(1, 7)], [1, 3, 9], EPOCHS, 3)
    assert [rung.rank_correlation for rung in found.rungs] == [1.0, 1.0, 1.0]
    assert found.grace_epochs == 1
    assert found.stopped == ()
    assert found.missed_wins is None


def test_the_grace_period_is_where_late_bloomers_have_caught_up() -> None:
    slow = [curve(f"s{n}", [0.0] * 5 + [0.9] * 4) for n in range(2)]
    quick = [curve(f"q{n}", [0.3 + 0.01 * n] * 9) for n in range(4)]
    found = audit_curves([*slow, *quick], [1, 3, 9], EPOCHS, 3)
    assert found.grace_epochs == 6
    assert found.rungs[0].rank_correlation is not None
    assert found.rungs[0].rank_correlation < 0 < (found.rungs[2].rank_correlation or 0)
    assert "search.grace_epochs=6" in found.advice


def test_brackets_are_judged_apart() -> None:
    slow = [curve(f"s{n}", [0.1 * n * epoch / 9 for epoch in range(1, 10)], bracket="slow") for n in range(4)]
    quick = [curve(f"q{n}", [0.5 + 0.01 * n] * 9, bracket="quick") for n in range(4)]
    found = audit_curves([*slow, *quick], [1], EPOCHS, 3)
    assert found.grace_epochs == 1
    assert [(rung.bracket, rung.num_known) for rung in found.rungs] == [("quick", 4), ("slow", 4)]


def test_epochs_are_counted_and_few_known_trials_tell_nothing() -> None:
    found = audit_curves([curve("0", rising(0.5)), curve("1", rising(0.4, last=3), known=False)], [3], EPOCHS, 3)
    assert (found.epochs_run, found.epochs_saved) == (12, 6)
    assert found.stopped[0].win_probability is None
    assert found.grace_epochs is None
    assert "got at most 1; search longer" in found.advice


@pytest.mark.parametrize("spread", [0.02, 0.08])
def test_the_expected_number_of_missed_wins_is_the_true_one(spread: float) -> None:
    """Known and stopped trials drawn alike: over many searches the sum of probabilities meets the count."""
    expected = missed = 0.0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        first = rng.uniform(0.2, 0.4, 12)
        final = first + 0.3 + rng.normal(0, spread, 12)
        curves = [Curve(str(n), "a", n < 8, {1: first[n]} if n >= 8 else {1: first[n], 2: final[n]}) for n in range(12)]
        told = audit_curves(curves, [1], 2, 3).missed_wins
        assert told is not None
        expected += told
        missed += float((final[8:] > final[:8].max()).sum())
    assert expected == pytest.approx(missed, rel=0.15)


def test_the_known_trials_are_looked_at_once_per_bracket_and_rung_however_many_were_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, outlook = [], audit.outlook

    def counted(known: list[Curve], best: float | None, epoch: int) -> audit.Outlook | None:
        looks.append(epoch)
        return outlook(known, best, epoch)

    monkeypatch.setattr(audit, "outlook", counted)
    known = [curve(f"k{n}", rising(0.1 * n)) for n in range(1, 7)]
    stopped = [curve(f"s{n}", rising(0.005 * n, last=(1, 3)[n % 2]), known=False) for n in range(100)]
    found = audit_curves([*known, *stopped], [1, 3], EPOCHS, 3)
    assert len(found.stopped) == 100
    assert sorted(looks) == [1, 3]


def test_trials_that_were_trained_on_are_known_and_speak_for_all() -> None:
    whole = [curve(str(n), rising(0.1 * n)) for n in range(1, 5)]
    late = Curve("late", "a", False, {1: 0.01}, dict.fromkeys(range(2, 10), 0.9))
    lost = Curve("lost", "a", False, {1: 0.02}, {})  # diverged at once
    found = audit_curves([*whole, late, lost, curve("left", [0.03], False)], [1, 3], EPOCHS, 3)
    assert [(one.trial, one.final, one.win_probability) for one in found.stopped[:2]] == [
        ("late", 0.9, 1.0),
        ("lost", 0.02, 0.0),
    ]
    assert found.rungs[0].num_known == 6
    assert found.rungs[1].num_known == 5
    assert found.grace_epochs == 2  # at the first epoch the late one was not among the best third
    assert (found.epochs_run, found.epochs_saved) == (4 * EPOCHS + 3, 3 * (EPOCHS - 1))
    assert found.trained_on == (
        "2 of 3 stopped trials, drawn at random, were trained on: 1 became the best of their bracket, so 1.0 to 3.0 of "
        "all would have (95%)"
    )
