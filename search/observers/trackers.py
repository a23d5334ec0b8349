"""The registry of experiment trackers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from search.observers.trial_row import Observer
from search.observers.wandb_tracker import WandbTracker

TRACKERS: dict[str, Callable[[Path], Observer]] = {"wandb": WandbTracker}


def build_trackers(names: Sequence[str], run_dir: Path) -> list[Observer]:
    """The trackers that a space names. `jsonl` is accepted and always on.

    Raises ValueError for an unknown name, with the nearest match.
    """
    known = [*TRACKERS, "jsonl"]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"a tracker must be one of {', '.join(known)}, got {name}; did you mean {near[0]}?")
    return [TRACKERS[name](run_dir) for name in names if name in TRACKERS]
