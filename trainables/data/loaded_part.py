"""What the reader of a data card asks of every kind of part, however its labels are written down."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainables.data.card import DataCard, Findings
from trainables.data.image_folder import ImageFolder
from trainables.data.index import ImageRecord, MaskValues, Role


@dataclass(frozen=True)
class CategoryUse:
    """Names of categories: those that a part lists, that have an annotation, that are the supercategory of others."""

    listed: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    above: frozenset[str] = frozenset()


class LoadedPart(Protocol):
    """A part of the card, as its reader found it."""

    @property
    def role(self) -> Role:
        """What its images are for."""

    @property
    def name(self) -> str:
        """The file or folder, in messages."""

    @property
    def folder(self) -> ImageFolder:
        """Where its images lie."""

    @property
    def licences(self) -> Sequence[str]:
        """Of its images."""

    def category_use(self) -> CategoryUse:
        """What it does with its categories."""

    def class_names(self, card: DataCard, roots: Collection[str], findings: Findings) -> dict[object, str] | None:
        """The part's own key of each class, in order, without `roots`; None where it has no labels."""

    def records(
        self, class_of: Mapping[object, int], values: MaskValues | None, findings: Findings
    ) -> list[ImageRecord]:
        """Its images and labels, as far as these are sound, each a group of its own. `class_of` takes the part's keys
        to class indices."""

    def digest(self, records: Sequence[ImageRecord]) -> str:
        """Of everything that makes the ids and labels of its own records."""
