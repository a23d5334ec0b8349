"""How a student learns from pseudo labels: the options of `segsearch pseudo`, and of a space's `pseudo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trainables.recipe.config import Config

Schedule = Literal["scratch", "continue", "continue_then_real", "consistency"]
UNREAD: Mapping[Schedule, tuple[str, ...]] = {  # options that a schedule does not read
    "scratch": ("lr_factor", "confidence", "consistency_weight"),
    "continue": ("confidence", "consistency_weight"),
    "continue_then_real": ("confidence", "consistency_weight"),
    "consistency": ("rounds", "target_precision", "min_certain", "cap", "lr_factor"),
}
TARGET_PRECISION = 0.9
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Pseudo(Config):
    """How a student learns from the ensemble's labels of the card's unlabelled images."""

    schedule: Schedule = Field(
        default="scratch",
        description="scratch: train the recipe anew on labels and pseudo labels; continue: go on with the trial's "
        "weights on both; continue_then_real: then on the labels alone; consistency: anew, with the network's own "
        "predictions of weak views as labels of strong ones, and no teacher",
    )
    rounds: Annotated[int, Field(ge=1, le=10)] = Field(default=1, description="each student teaches the next")
    rule: str | None = Field(default=None, description="the first teacher; null: the verdict's rule")
    target_precision: Share | dict[str, Share] = Field(
        default=TARGET_PRECISION,
        description="of a class's pseudo labels, as measured; or class name -> precision, the default of all others",
    )
    min_certain: Share = Field(default=0.1, description="share of an image that must be certain, else it is dropped")
    cap: Annotated[float, Field(ge=1.0)] = Field(
        default=20.0, description="times the certain pixels of the median class that a class may have"
    )
    share: Share | tuple[Share, ...] = Field(
        default=0.5, description="of a batch: images with pseudo labels; of a list, each is tried"
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="of each training; null: the recipe's")
    lr_factor: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        default=0.3, description="of the recipe's learning rate, where weights are gone on with"
    )
    confidence: Share = Field(
        default=0.95, description="of consistency: from which on a pixel's prediction is its label"
    )
    consistency_weight: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="of the unlabelled images' loss"
    )

    @property
    def shares(self) -> tuple[float, ...]:
        """Those that are tried."""
        return self.share if isinstance(self.share, tuple) else (self.share,)

    def targets(self, classes: Sequence[str]) -> tuple[float, ...]:
        """The precision that is asked of each class (K,)."""
        asked = self.target_precision
        if isinstance(asked, dict):
            return tuple(asked.get(name, TARGET_PRECISION) for name in classes)
        return (asked,) * len(classes)

    # a union's own messages name its members in the path, and none says what all of them allow
    @field_validator("target_precision", mode="before")
    @classmethod
    def _number_or_per_class(cls, given: Any) -> Any:
        values = list(given.values()) if isinstance(given, dict) else [given]
        if not all(_is_share(value) for value in values):
            raise ValueError(
                f"must be a number from 0 to 1, or a mapping of class names to such numbers, got {given!r}"
            )
        return {str(name): value for name, value in given.items()} if isinstance(given, dict) else given

    @field_validator("share", mode="before")
    @classmethod
    def _number_or_several(cls, given: Any) -> Any:
        values = list(given) if isinstance(given, (list, tuple)) else [given]
        if not values or not all(_is_share(value) for value in values) or len(set(values)) < len(values):
            raise ValueError(f"must be a number from 0 to 1, or a list of different ones to try, got {given!r}")
        return values[0] if len(values) == 1 else tuple(values)

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> Pseudo:
        fields = type(self).model_fields
        idle = [name for name in UNREAD[self.schedule] if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(
                f"options must be ones that the schedule {self.schedule} reads, got {', '.join(idle)}; leave them out"
            )
        return self


class PseudoOptions(Pseudo):
    """With what only a finished run can be asked: whose recipe the student has."""

    trial: str | None = Field(default=None, description="whose recipe the student has; null: the best single model's")


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
