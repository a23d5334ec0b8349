"""What distilled.json holds (format segsearch-distilled/1), as frozen models, and its reading and writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from analysis.ensembling.result import Gain, HoldoutOpening, Score
from trainables.files import write_text
from trainables.recipe.config import Config

FORMAT: Literal["segsearch-distilled/1"] = "segsearch-distilled/1"
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class DistilOptions(Config):
    """How a student learns from an ensemble."""

    rule: str | None = Field(default=None, description="the ensemble's rule; null: the verdict's")
    trial: str | None = Field(default=None, description="whose recipe the student has; null: the best single model's")
    alpha: Share = Field(default=0.5, description="share of the labels' loss; the rest is the teacher's")
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = Field(
        default=2.0, description="T, divides the logits of both before the softmax"
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="null: the recipe's")
    unlabelled: bool = Field(default=True, description="learn from the card's unlabelled images too")


class TeacherFacts(Config):
    """Who taught."""

    fingerprint: str
    rule: str
    members: tuple[str, ...] = Field(description="trials with a weight in the rule")
    out_of_fold: int = Field(description="labelled images predicted by models that never saw them")
    in_sample: int = Field(description="labelled images predicted by models that were trained on them")
    unlabelled: int


class StudentFacts(Config):
    """Who learnt."""

    trial: str = Field(description="whose recipe it has, but for what `changes` says")
    recipe_hash: str
    epoch: int = Field(description="whose weights were kept")
    changes: tuple[str, ...] = Field(description="what differs from that recipe")


class Kept(Config):
    """Which share of the ensemble's gain over the single model the student has, with its 95% interval."""

    share: float
    low: float
    high: float


class Latency(Config):
    """Median milliseconds per image from pixels to labels, one image at a time, measured side by side."""

    device: str
    single_ms: float
    ensemble_ms: float
    distilled_ms: float

    @property
    def of_ensemble(self) -> float:
        """The student's share of the ensemble's cost."""
        return self.distilled_ms / self.ensemble_ms


class Comparison(Config):
    """Scores on the hold-out, and paired gains."""

    unit: Literal["image", "group"] = Field(description="what the intervals resample")
    num_images: int
    single: Score
    ensemble: Score
    distilled: Score
    ensemble_over_single: Gain
    over_single: Gain = Field(description="of the student")
    over_rival: Gain = Field(description="of the student, over the best single model with class weights")
    over_ensemble: Gain = Field(description="of the student")
    kept: Kept | None = Field(description="null where the ensemble's own gain is not shown")

    @property
    def is_better(self) -> bool:
        """Whether the interval of the student's gain over the single model lies above 0."""
        return self.over_single.is_above_zero


class DistilledResult(Config):
    """distilled.json."""

    format: Literal["segsearch-distilled/1"]
    options: DistilOptions
    teacher: TeacherFacts
    student: StudentFacts
    comparison: Comparison
    latency: Latency
    sentence: str
    caveats: tuple[str, ...]
    holdout_opened: tuple[HoldoutOpening, ...] = Field(description="oldest first")

    @classmethod
    def read(cls, path: Path) -> DistilledResult:
        """Raises ValueError naming the file where it is missing, cut short or of another format."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{path} must have the format {FORMAT}, got another file ({reason}); delete it and run "
                "`segsearch distil` again"
            ) from None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all. Raises ValueError where a score is NaN."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
