"""A bracket per family and kind of head, against Ray's own bracket where one exists."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from search.engine.asha import FamilyASHA, is_broken, milestones

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def family_asha(max_epochs: int = 27) -> FamilyASHA:
    return FamilyASHA(metric="val/miou", max_epochs=max_epochs, grace_epochs=1, reduction_factor=3)


def recipe(backbone: str, head: str = "upernet") -> dict[str, Any]:
    return {"backbone": {"name": backbone}, "head": {"name": head}}


def trial(number: int, backbone: str = "convnext_atto", head: str = "upernet", trial_id: str | None = None) -> Any:
    config = {"number": number, "recipe": recipe(backbone, head)}
    return SimpleNamespace(trial_id=trial_id or f"ray-{number}", config=config)


def run(asha: FamilyASHA, subject: Any, miou: float, num_epochs: int = 27) -> int:
    """Feeds a constant curve; returns the epoch at which the trial was stopped."""
    asha.on_trial_add(None, subject)
    for epoch in range(1, num_epochs + 1):
        result = {"epoch": epoch, "val/miou": miou}
        if asha.on_trial_result(None, subject, result) == STOP:
            asha.on_trial_complete(None, subject, result)
            return epoch
    return num_epochs


def test_slow_family_is_not_ended_by_a_quick_one() -> None:
    asha = family_asha()
    assert run(asha, trial(0, "convnext_atto"), 0.9) == 27
    assert run(asha, trial(1, "swin_tiny"), 0.1) == 27
    assert run(asha, trial(2, "swin_tiny"), 0.05) == 1


def test_a_head_that_starts_slowly_is_compared_with_its_kind() -> None:
    asha = family_asha()
    assert run(asha, trial(0, head="segformer"), 0.9) == 27
    assert run(asha, trial(1, head="mask_classification"), 0.1) == 27
    assert run(asha, trial(2, head="mask_classification"), 0.05) == 1
    assert run(asha, trial(3, head="upernet"), 0.5) == 1  # every other head is of one kind
    assert list(asha.rungs()) == ["convnext", "convnext/masks"]


@pytest.mark.parametrize("mious", [[0.5, 0.4, 0.6, 0.55], [0.1, 0.2, 0.3, 0.4, 0.35]])
def test_one_family_decides_as_rays_asha_does(mious: list[float]) -> None:
    asha = family_asha()
    theirs = ASHAScheduler("epoch", "val/miou", "max", max_t=27, grace_period=1, reduction_factor=3)
    for number, miou in enumerate(mious):
        subject = trial(number)
        theirs.on_trial_add(None, subject)
        expected = next(
            epoch
            for epoch in range(1, 28)
            if theirs.on_trial_result(None, subject, {"epoch": epoch, "val/miou": miou}) == STOP
        )
        assert run(asha, subject, miou) == expected


def test_requeued_trial_comes_back_to_its_bracket() -> None:
    asha = family_asha()
    subject = trial(0, "swin_tiny")
    asha.on_trial_add(None, subject)
    before = asha._trial_info[subject.trial_id]
    asha.on_trial_error(None, subject)
    asha.on_trial_add(None, subject)
    assert asha._trial_info[subject.trial_id] is before is asha.bracket("swin")


def test_replayed_curves_give_the_rungs_back() -> None:
    asha, restored = family_asha(), family_asha()
    curves = {0: [0.1 * epoch for epoch in range(1, 28)], 1: [0.02], 2: [0.3, 0.35, 0.4, 0.4]}
    for number, curve in curves.items():
        subject = trial(number, "swin_tiny" if number == 1 else "convnext_atto")
        asha.on_trial_add(None, subject)
        for epoch, miou in enumerate(curve, start=1):
            asha.on_trial_result(None, subject, {"epoch": epoch, "val/miou": miou})
    for number in (2, 0, 1):
        by_epoch = dict(enumerate(curves[number], start=1))
        restored.replay(recipe("swin_tiny" if number == 1 else "convnext_atto"), number, by_epoch)
    assert restored.rungs() == asha.rungs()
    assert list(asha.rungs()["convnext"]) == milestones(27, 1, 3) == [1, 3, 9, 27]


@pytest.mark.parametrize("epochs", [[1, 2, 3, 9, 27], [3, 4, 12], [2], [27, 28, 29, 30], [1, 4, 10]])
def test_a_replay_records_as_rays_bracket_does_without_its_cutoffs(
    epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asha, restored = family_asha(), family_asha()
    bracket = asha.bracket("convnext")
    for epoch in epochs:
        bracket.on_result(SimpleNamespace(trial_id=0), epoch, epoch / 100)
    monkeypatch.setattr(type(bracket), "cutoff", lambda *args: pytest.fail("a cutoff looks at a whole rung"))
    restored.replay(recipe("convnext_atto"), 0, {epoch: epoch / 100 for epoch in epochs})
    assert restored.rungs() == asha.rungs()


def test_trial_that_goes_on_under_a_new_ray_id_is_counted_once() -> None:
    asha = family_asha()
    asha.replay(recipe("convnext_atto"), 0, {1: 0.5, 2: 0.5})
    again = trial(0, trial_id="another session's")
    asha.on_trial_add(None, again)
    assert asha.on_trial_result(None, again, {"epoch": 2, "val/miou": 0.1}) == CONTINUE
    assert asha.rungs()["convnext"][1] == {0: 0.5}


@pytest.mark.parametrize(
    "result",
    [
        {"val/miou": math.nan},
        {"val/miou": None},
        {},
        {"val/miou": 0.0, "diverged": True},
        {"val/miou": 0.0, "failed": "out of memory"},
    ],
)
def test_broken_trial_is_stopped_and_leaves_no_record(result: dict[str, Any]) -> None:
    """Ray itself never stops a NaN, and raises TypeError for None."""
    asha, subject = family_asha(), trial(0)
    asha.on_trial_add(None, subject)
    whole = {"epoch": 1, **result}
    assert is_broken(whole, "val/miou")
    assert asha.on_trial_result(None, subject, whole) == STOP
    asha.on_trial_complete(None, subject, whole)
    assert not any(asha.rungs()["convnext"].values())
