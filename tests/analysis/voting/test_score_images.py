"""Votes on stored logits, all pixels: what is read, and that it is counted once for all votes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import analysis.voting.score_images as score_images_module
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import score_images
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Vote, single
from trainables.metrics import confusion

SIZE = (6, 8)
LABEL = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)


class Store:
    def __init__(self) -> None:
        self.sizes = {"a": SIZE}
        self.header = SimpleNamespace(classes=("x", "y", "z"))


class Labels:
    def label(self, _image_id: str) -> np.ndarray:
        return LABEL


def seen_by(num_members: int) -> LabelledLogits:
    return LabelledLogits((Store(),) * num_members, ("a",), Labels(), ("a",))  # type: ignore[arg-type]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The views that were read, in order; each gives probabilities of its own."""
    found: list[tuple[str, ...]] = []

    def probabilities(_store: Any, views: tuple[str, ...], _image_id: str, out: np.ndarray, **_: Any) -> None:
        found.append(views)
        out[:] = np.random.default_rng(len(views[0])).random((3, *SIZE))

    monkeypatch.setattr(score_images_module, "probabilities", probabilities)
    return found


@pytest.mark.parametrize("kind", ["soft", "hard", "geometric"])
def test_members_that_no_vote_uses_are_not_read(read: list[tuple[str, ...]], kind: Any) -> None:
    view_config = ViewConfig.plain((("a",), ("bb",), ()))
    batch = VoteBatch(view_config, (Vote(kind, single(3, 3, 1)), Vote("soft", single(3, 3, 1))))
    [counts] = score_images(seen_by(3), [[batch]], "")
    assert read == [("bb",)]
    expected = np.random.default_rng(2).random((3, *SIZE)).argmax(0).astype(np.uint8)
    for found in counts[0]:
        np.testing.assert_array_equal(found, confusion(LABEL, expected, 3))


def test_what_two_view_configurations_share_is_read_once(read: list[tuple[str, ...]]) -> None:
    votes = (Vote("soft", np.ones((2, 3), np.float32)),)
    batches = [VoteBatch(ViewConfig.plain(views), votes) for views in ((("a",), ("bb",)), (("a",), ("ccc",)))]
    score_images(seen_by(2), [batches], "")
    assert read == [("a",), ("bb",), ("ccc",)]
