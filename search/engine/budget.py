"""When a search has done enough: its device-hours are spent, its hours are over, or a trial is as good as was asked."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial

from search.space.options import Search

ENDED_EARLY = "ended_early"  # the study's attribute: why it ended before search.num_trials


def why_enough(options: Search, trials: Iterable[FrozenTrial], searched_s: float) -> str | None:
    """Why no further trial is to be added, None where one may. Those that run or wait go on to their end.

    `searched_s` is what all sessions of the search have taken so far.
    """
    progress = [trial.user_attrs.get("progress", {}) for trial in trials]
    device_h = sum(one.get("device_s", 0.0) for one in progress) / 3600
    best = max((one["best_miou"] for one in progress if one.get("best_miou") is not None), default=None)
    if options.budget_device_hours is not None and device_h >= options.budget_device_hours:
        return f"its {options.budget_device_hours:g} device-hours are spent (search.budget_device_hours)"
    if options.until_hours is not None and searched_s >= 3600 * options.until_hours:
        return f"its {options.until_hours:g} hours are over (search.until_hours)"
    if options.until_miou is not None and best is not None and best >= options.until_miou:
        return f"a trial reached {best:.4f} mIoU of {options.until_miou:g} (search.until_miou)"
    return None
