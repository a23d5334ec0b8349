"""A rule that joins members to one prediction, as the search found it and as the bundle applies it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.recipe.config import Config

VoteKind = Literal["soft", "geometric", "hard"]
Weights = Annotated[tuple[tuple[float, ...], ...], Field(description="(M,K), of every member and class")]
ViewNames = Annotated[tuple[tuple[str, ...], ...], Field(description="(M,), empty for a member that is not used")]
Temperatures = Annotated[tuple[float, ...], Field(description="(M,), divide the logits before the softmax")]


class FittedRule(Config):
    """M members seen through their views, voting on K classes."""

    kind: VoteKind
    views: ViewNames
    temperatures: Temperatures
    weights: Weights

    @property
    def used(self) -> tuple[int, ...]:
        """The members with a weight."""
        return tuple(m for m, row in enumerate(self.weights) if any(row))

    def of_used(self) -> FittedRule:
        """The same rule over the members with a weight alone."""
        used = self.used
        assert used, "the rule weighs no member"
        return FittedRule(
            kind=self.kind,
            views=tuple(self.views[m] for m in used),
            temperatures=tuple(self.temperatures[m] for m in used),
            weights=tuple(self.weights[m] for m in used),
        )
