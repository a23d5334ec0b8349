"""What pseudo.json holds (format segsearch-pseudo/1), as frozen models, and its reading and writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.ensembling.result import Gain, HoldoutOpening
from trainables.files import write_text
from trainables.recipe.config import Config

FORMAT: Literal["segsearch-pseudo/1"] = "segsearch-pseudo/1"
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TriedShare(Config):
    """A share of pseudo labels in a batch, and what its students come to."""

    share: Share
    miou: float = Field(description="on the labelled images that no student of it was trained on")


class PseudoRound(Config):
    """One teacher's labels, and what came of them."""

    teacher: str
    labels: tuple[str, ...] = Field(
        description="fingerprint of every student's pseudo_labels.json: with folds one per fold, then of all"
    )
    images: int = Field(description="with pseudo labels, of the student that has the fewest")
    dropped: int = Field(description="images with too little certain area")
    certain: Share | None = Field(description="share of the images' pixels, on average; null: not known beforehand")
    tried: tuple[TriedShare, ...] = Field(default=(), description="empty: not trained")
    share: Share | None = Field(default=None, description="of the student that was taken; null: not trained")
    gain: Gain | None = Field(
        description="cross-fitted, over the round before or the same recipe without pseudo labels: with folds on all "
        "labelled images outside the hold-out, each by the student that saw neither it nor its labels; else on val; "
        "where shares were tried, each image by the share that was chosen without its fold; null: not trained"
    )
    helped: bool = Field(description="whether the gain holds")
    reason: str


class PseudoResult(Config):
    """pseudo.json."""

    format: Literal["segsearch-pseudo/1"]
    options: PseudoOptions
    trial: str = Field(description="whose recipe the student has")
    rounds: tuple[PseudoRound, ...]
    gain_crossfit: Gain | None = Field(
        default=None,
        description="of the last round that helped, over the same recipe without pseudo labels; null where none did",
    )
    comparison: Comparison | None = Field(
        description="of the last round that helped, on the hold-out; `single` is the same recipe without pseudo "
        "labels; null where none did, and the hold-out was left alone"
    )
    helped: bool = Field(description="whether the gain on the hold-out lies above 0")
    sentence: str
    caveats: tuple[str, ...]
    holdout_opened: tuple[HoldoutOpening, ...] = Field(description="oldest first")

    @classmethod
    def read(cls, path: Path) -> PseudoResult:
        """Raises ValueError naming the file where it is missing, cut short or of another format."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ValueError(
                f"{path} must have the format {FORMAT}, got another file ({str(error).splitlines()[0]}); delete it and "
                "run `segsearch pseudo` again"
            ) from None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all. Raises ValueError where a score is NaN."""
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
