"""Where pseudo labels come from: pseudo_labels.json beside them names the teacher, what it was trained on, and the
thresholds (format segsearch-pseudo-labels/1)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from analysis.pseudo_labels.leaks import check_teacher
from analysis.pseudo_labels.selection import Chosen
from analysis.pseudo_labels.thresholds import ClassThreshold
from trainables.files import write_text
from trainables.recipe.config import Config

FORMAT: Literal["segsearch-pseudo-labels/1"] = "segsearch-pseudo-labels/1"
FILE = "pseudo_labels.json"
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Teacher(Config):
    """Who labelled the images."""

    name: str
    fingerprint: str
    train_ids: tuple[str, ...] = Field(description="every image that any of its models was trained on")


class Threshold(Config):
    """Of one class."""

    name: str
    target: Share = Field(description="precision that was asked for")
    confidence: float | None = Field(description="the least; null: the class is never sure enough")
    precision: float | None = Field(description="from there on, as it was measured on labelled images")
    capped: float | None = Field(description="the least after the cap on frequent classes")


class PseudoLabel(Config):
    """One image's label map."""

    image_id: str
    file: Annotated[str, StringConstraints(pattern=r"^\d{6}\.png$")]  # so: no folder, no ".."
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    certain: Share = Field(description="share of its pixels; the others are ignored")


class PseudoLabels(Config):
    """pseudo_labels.json."""

    format: Literal["segsearch-pseudo-labels/1"] = FORMAT
    teacher: Teacher
    measured_on: tuple[str, ...] = Field(description="labelled images that precision was read on")
    thresholds: tuple[Threshold, ...] = Field(description="(K,)")
    labels: tuple[PseudoLabel, ...]
    dropped: int = Field(description="images with too little certain area")

    @property
    def fingerprint(self) -> str:
        """16 hex digits of everything in it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def files(self, folder: Path) -> dict[str, Path]:
        """image_id -> its label map."""
        return {one.image_id: folder / one.file for one in self.labels}

    def check(self, holdout_ids: Collection[str]) -> None:
        """Raises ValueError where the teacher saw the hold-out, or an image of it was labelled."""
        check_teacher(self.teacher.train_ids, holdout_ids, self.teacher.name)
        labelled = sorted({one.image_id for one in self.labels} & set(holdout_ids))
        if labelled:
            raise ValueError(
                f"pseudo labels must be of no hold-out image, got {len(labelled)} ({', '.join(labelled[:3])}); take "
                "them out of the card's `unlabelled`"
            )

    def write(self, folder: Path) -> None:
        """Write the file whole or not at all."""
        write_text(folder / FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> PseudoLabels:
        """Raises ValueError naming the file where it is missing, cut short or of another format."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise ValueError(
                f"{folder / FILE} must have the format {FORMAT}, got another file ({str(error).splitlines()[0]}); "
                "delete the folder and run the command again"
            ) from None


def describe_thresholds(
    classes: Sequence[str], targets: Sequence[float], found: Sequence[ClassThreshold], raised: Sequence[int]
) -> tuple[Threshold, ...]:
    """The thresholds (K,) as the file names them; `raised` are the bins after the cap."""
    rows = zip(classes, targets, found, raised, strict=True)
    return tuple(
        Threshold(
            name=name,
            target=target,
            confidence=one.confidence,
            precision=one.precision,
            capped=ClassThreshold(low, None, 0.0).confidence,
        )
        for name, target, one, low in rows
    )


def as_labels(chosen: Sequence[Chosen]) -> tuple[PseudoLabel, ...]:
    return tuple(
        PseudoLabel(image_id=one.image_id, file=one.file, sha256=one.sha256, certain=one.certain) for one in chosen
    )
