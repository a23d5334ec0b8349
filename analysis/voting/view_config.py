"""Which views of each member a vote reads, and the votes scored on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.voting.votes import Vote

IDENTITY = "s1.00-none"


def plain_view(views: Sequence[str]) -> str:
    """The view by which a member is judged alone: the identity, or the first one where that was not predicted."""
    return IDENTITY if IDENTITY in views else views[0]


Views = tuple[tuple[str, ...], ...]  # a member's views, for each member; none where it is not looked at


@dataclass(frozen=True)
class ViewConfig:
    """What a rule sees of an image: each member's probabilities, the mean over its views, its logits divided by its
    temperature."""

    views: Views  # (M,) of names
    temperatures: tuple[float, ...]  # (M,)

    @staticmethod
    def plain(views: Views) -> ViewConfig:
        """Views at a temperature of 1: the logits as the models give them."""
        return ViewConfig(views, (1.0,) * len(views))

    @property
    def members(self) -> list[int]:
        """Those that are looked at."""
        return [m for m, views in enumerate(self.views) if views]


@dataclass(frozen=True)
class VoteBatch:
    """Votes that are scored on the same probabilities."""

    view_config: ViewConfig
    votes: tuple[Vote, ...]
