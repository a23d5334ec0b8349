"""Reads confusions.safetensors: the counts of every rule on every image, as the verdict read them, and of every member
alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

Counts = NDArray[np.int64]
Scoring = Literal["val_fitted", "val_crossfit", "holdout", "members"]
MEMBERS: Literal["members"] = "members"  # in place of a rule's name, a member's; its plain view on val
IDS: dict[Scoring, str] = {
    "val_fitted": "val_ids",
    "val_crossfit": "val_ids",
    "holdout": "holdout_ids",
    MEMBERS: "val_ids",
}


def read_confusions(path: Path, scoring: Scoring, rules: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Counts]]:
    """The image ids (N,), and by rule the counts (N,K,K) [image, true, predicted]. Raises ValueError where they are
    gone."""
    try:
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call, unused-ignore]
            ids = tuple(str(image_id) for image_id in json.loads(file.metadata()[IDS[scoring]]))
            return ids, {rule: np.asarray(file.get_tensor(f"{rule}/{scoring}")) for rule in rules}
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        what = "the hold-out's counts" if scoring == "holdout" else "val's counts"
        raise ValueError(
            f"{path} must hold {what} of {', '.join(rules)}, got none ({error}); restore it, or run the ensemble stage "
            "again"
        ) from None


def read_members(path: Path, trials: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Counts]] | None:
    """The ids (N,) of the images that rules were fitted on, and by member the counts (N,K,K) of its plain view; None
    where an earlier version wrote the file, which lacks them. Raises ValueError where it is gone."""
    if path.is_file():
        with safe_open(path, framework="numpy") as file:  # type: ignore[no-untyped-call, unused-ignore]
            if not {f"{trial}/{MEMBERS}" for trial in trials} <= set(file.keys()):
                return None
    return read_confusions(path, MEMBERS, trials)
