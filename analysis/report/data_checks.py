"""What was found out about a run's data, for its report: split, drift, labels that look wrong. The pages with the
details are those of `analysis/dataset` and `analysis/label_errors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PartRow:
    """A part of the split; a scene is a cluster of near-duplicates."""

    part: str
    images: int
    groups: int | None  # None where the card names none
    scenes: int
    near_duplicates_in_train: int | None  # None of train itself
    shares: Sequence[float]  # (K,) of its labelled pixels


@dataclass(frozen=True)
class SplitChecks:
    """The parts, what makes scores on them doubtful, and whether val looks like the hold-out."""

    parts: Sequence[PartRow]
    findings: Sequence[str]
    drift: str  # a sentence


@dataclass(frozen=True)
class SuspectsSummary:
    """What was found, on how many images, how many labels are suspected of what, and where the page lies."""

    headline: str
    num_images: int
    counts: Mapping[str, int]  # relabel, remove, add
    page: str  # relative to the report
