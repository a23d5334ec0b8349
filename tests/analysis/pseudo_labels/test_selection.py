"""Which images and pixels a student gets, and what is written of where they come from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from analysis.pseudo_labels.lineage import PseudoLabels, Teacher, as_labels, describe_thresholds
from analysis.pseudo_labels.selection import choose, write_predictions
from analysis.pseudo_labels.thresholds import NEVER, ClassThreshold
from trainables.data.index import IGNORE_INDEX

LEAST = (500, 500, NEVER)


def shares_of(sure: float, rows: int) -> np.ndarray:
    """(3,10,10): the first `rows` rows are class 0 with this probability, the others a guess."""
    shares = np.full((3, 10, 10), 1 / 3, np.float32)
    shares[:, :rows] = (1 - sure) / 2
    shares[0, :rows] = sure
    return shares


def test_uncertain_pixels_are_ignored_and_uncertain_images_dropped(tmp_path: Path) -> None:
    said = [("a/../b.jpg", shares_of(0.9, 6)), ("c", shares_of(0.9, 1)), ("d", shares_of(0.4, 10))]
    found = write_predictions(tmp_path / "raw", said)
    raised, chosen = choose(found, LEAST, tmp_path / "labels", cap=10.0, min_certain=0.2)
    assert raised == LEAST
    assert [(one.image_id, one.file, one.certain) for one in chosen] == [
        ("a/../b.jpg", "000000.png", pytest.approx(0.6))
    ]
    label = cv2.imread(str(tmp_path / "labels" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert (label[:6] == 0).all()
    assert (label[6:] == IGNORE_INDEX).all()
    assert sorted(path.parent.name for path in tmp_path.rglob("*.png")) == ["labels"] + ["raw"] * 6


def test_no_image_and_nothing_certain_choose_nothing(tmp_path: Path) -> None:
    assert choose([], LEAST, tmp_path, cap=2.0, min_certain=0.1) == (LEAST, [])
    found = write_predictions(tmp_path, [("a", shares_of(0.4, 10))])
    assert choose(found, LEAST, tmp_path, cap=2.0, min_certain=0.0)[1] == []


def test_the_file_says_who_labelled_what_how_and_reads_back(tmp_path: Path) -> None:
    _, chosen = choose(
        write_predictions(tmp_path, [("x", shares_of(0.9, 6))]), LEAST, tmp_path, cap=9.0, min_certain=0.1
    )
    thresholds = (ClassThreshold(500, 0.93, 0.5), ClassThreshold(500, 0.91, 0.4), ClassThreshold(NEVER, None, 0.0))
    written = PseudoLabels(
        teacher=Teacher(name="soft_vote", fingerprint="f", train_ids=("t1", "t2")),
        measured_on=("v1",),
        thresholds=describe_thresholds(("a", "b", "c"), (0.9,) * 3, thresholds, (700, 500, NEVER)),
        labels=as_labels(chosen),
        dropped=0,
    )
    written.write(tmp_path)
    found = PseudoLabels.read(tmp_path)
    assert found == written
    assert found.fingerprint == written.fingerprint
    assert found.files(tmp_path) == {"x": tmp_path / "000000.png"}
    assert [(one.confidence, one.capped) for one in found.thresholds] == [(0.5, 0.7), (0.5, 0.5), (None, None)]
    found.check(["h"])
    with pytest.raises(ValueError, match=r"a teacher must not have seen the hold-out, got soft_vote, .* on 1 of its"):
        found.check(["t2"])
    with pytest.raises(ValueError, match="must be of no hold-out image, got 1"):
        found.check(["x"])
    (tmp_path / "pseudo_labels.json").write_text(written.model_dump_json().replace("000000.png", "../../x.png"))
    with pytest.raises(ValueError, match="must have the format segsearch-pseudo-labels/1"):
        PseudoLabels.read(tmp_path)
