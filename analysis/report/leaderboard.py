"""The best model of each backbone family, as rows of the report's leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A trial as the leaderboard compares it."""

    trial: str
    family: str
    model: str  # backbone + head
    epochs: int
    stopped: bool  # before its last epoch, or failed
    device: str  # what `device_s` counts
    device_s: float
    val: float | None  # mIoU of its best epoch


@dataclass(frozen=True)
class FamilyRow:
    """A family by its best trial. None: not scored."""

    family: str
    best: Entry
    tie: bool  # with the best trial of all: less apart than seeds are
    out_of_fold: float | None  # of the best trial's fold models, each on images that it never saw
    share: float  # of the vote that ships
    trials: int
    stopped: int
    epochs: int  # of all its trials
    device_s: float


def leaderboard(
    entries: Sequence[Entry], ties: Sequence[str], out_of_fold: Mapping[str, float], shares: Mapping[str, float]
) -> list[FamilyRow]:
    """A row per family, the best first.

    Args:
        ties: Trials that are ties with the best one.
        out_of_fold: Trial -> mIoU of its fold models.
        shares: Family -> its share of the vote.
    """
    families: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda one: (one.val is None, -(one.val or 0.0), one.trial)):
        families.setdefault(entry.family, []).append(entry)
    return [
        FamilyRow(
            family=family,
            best=of[0],
            tie=of[0].trial in ties,
            out_of_fold=out_of_fold.get(of[0].trial),
            share=shares.get(family, 0.0),
            trials=len(of),
            stopped=sum(one.stopped for one in of),
            epochs=sum(one.epochs for one in of),
            device_s=sum(one.device_s for one in of),
        )
        for family, of in families.items()
    ]
