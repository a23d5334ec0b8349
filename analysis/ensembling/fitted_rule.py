"""A rule that joins members to one prediction, as the search found it and as the bundle applies it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from trainables.recipe.config import Config

VoteKind = Literal["soft", "geometric", "hard", "stacked"]
MAX_STACKER_BYTES = 2**27  # more than the linear map of 256 members and 255 classes
Weights = Annotated[tuple[tuple[float, ...], ...], Field(description="(M,K), of every member and class")]
ViewNames = Annotated[tuple[tuple[str, ...], ...], Field(description="(M,), empty for a member that is not used")]
Temperatures = Annotated[tuple[float, ...], Field(description="(M,), divide the logits before the softmax")]


class StackerFile(Config):
    """A stacker of the members with a weight: a safetensors file beside the JSON that names it."""

    file: Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*\.safetensors$")]  # so: no folder, no ".."
    num_bytes: Annotated[int, Field(ge=1, le=MAX_STACKER_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    num_hidden: Annotated[int, Field(ge=0, le=1024, description="units of the hidden layer; 0: a linear map")]
    strength: Annotated[float, Field(ge=0.0, le=1.0, description="of its correction of the geometric mean")]


class FittedRule(Config):
    """M members seen through their views, voting on K classes."""

    kind: VoteKind
    views: ViewNames
    temperatures: Temperatures
    weights: Weights
    stacker: StackerFile | None = None

    @model_validator(mode="after")
    def _a_stacked_vote_has_a_stacker(self) -> FittedRule:
        if (self.kind == "stacked") != (self.stacker is not None):
            raise ValueError(f"a stacked vote, and no other, needs a stacker, got {self.kind} and {self.stacker}")
        rows = {row for row in self.weights if any(row)}
        if self.kind == "stacked" and len(rows) != 1:
            raise ValueError(f"a stacked vote has the same class weights for every member, got {len(rows)} rows")
        return self

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
            stacker=self.stacker,
        )
