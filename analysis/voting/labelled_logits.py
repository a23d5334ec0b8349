"""Labelled images with the logits that every member gave them: what rules are fitted on, and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from analysis.voting.votes import Labels
from trainables.data.index import SegIndex
from trainables.logits.store import LogitStore


class LabelSource(Protocol):
    """Anything with an image's labels: the cache, or a test's dict."""

    def label(self, image_id: str) -> Labels:
        """(H,W) uint8, 255 for ignored pixels."""
        ...


@dataclass(frozen=True)
class LabelledLogits:
    """N images and M members. Travels to other processes by pickle: paths and names, no pixel."""

    stores: tuple[LogitStore, ...]  # (M,)
    ids: tuple[str, ...]  # (N,)
    labels: LabelSource
    groups: tuple[str, ...]  # (N,): images of one group resemble each other
    grouped: bool = False  # whether the data card names groups; else each image is its own
    background: bool = False  # class 0 is 'under no annotation'

    @classmethod
    def of(
        cls, stores: Sequence[LogitStore], ids: Sequence[str], labels: LabelSource, index: SegIndex
    ) -> LabelledLogits:
        """These images of an index."""
        records = index.by_id()
        groups = tuple(records[image_id].group for image_id in ids)
        return cls(tuple(stores), tuple(ids), labels, groups, index.grouped, index.background)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.stores[0].header.classes

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def views(self) -> tuple[tuple[str, ...], ...]:
        """Of each member (M,): the views that were predicted."""
        return tuple(store.views for store in self.stores)

    def of_members(self, order: Sequence[int]) -> LabelledLogits:
        """The same images with these members, in this order."""
        return replace(self, stores=tuple(self.stores[m] for m in order))

    def label(self, image_id: str) -> Labels:
        """(H,W) uint8. Raises ValueError where logits were written for another size."""
        label = np.asarray(self.labels.label(image_id))
        for store in self.stores:
            if store.sizes[image_id] != label.shape:
                raise ValueError(
                    f"logits must be for the label's own size, got {store.sizes[image_id]} in {store.folder} and a "
                    f"label of {label.shape} for image '{image_id}'; write the logits again with this data card"
                )
        return label
