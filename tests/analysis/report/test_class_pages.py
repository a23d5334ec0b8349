"""Pages per class: which images, what their error maps show, what a class is confused with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from factories import make_ensemble, make_member

from analysis.report.class_pages import (
    HIT,
    MISSED,
    WRONG,
    ClassPages,
    choose_images,
    confused_with,
    error_map,
    page_name,
    write_class_pages,
)

CLASSES = ["Background", "<b>Paper</b>", "Glass"]


def test_the_worst_median_and_best_images_are_chosen_once_each() -> None:
    scores = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.6])
    chosen = choose_images(scores, 2)
    assert chosen == {"Worst": [2, 6], "Median": [0, 8], "Best": [3, 7]}


def test_few_images_are_shown_once_and_images_without_the_class_never() -> None:
    assert choose_images(np.array([np.nan, 0.4, 0.2]), 2) == {"Worst": [2, 1], "Median": [], "Best": []}
    assert choose_images(np.full(3, np.nan), 2) == {"Worst": [], "Median": [], "Best": []}


def test_an_error_map_shows_what_is_right_missed_and_predicted_in_error() -> None:
    truth = np.array([[1, 1, 0, 0, 255]], np.uint8)
    prediction = np.array([[1, 0, 1, 0, 1]], np.uint8)
    shown = error_map(np.zeros((1, 5, 3), np.uint8), truth, prediction, 1)
    assert [tuple(pixel) for pixel in shown[0, :3].tolist()] == [HIT, MISSED, WRONG]
    assert shown[0, 3].tolist() == shown[0, 4].tolist() == [165, 165, 165]  # the pale photograph


def test_a_class_is_confused_with_what_takes_its_pixels_and_gives_it_its_own() -> None:
    total = np.array([[5, 2, 0], [3, 4, 1], [0, 2, 6]])
    found = confused_with(total, 1, ["a", "b", "c"])
    assert found == {"taken for": [("a", 3 / 8), ("c", 1 / 8)], "seen in": [("a", 2 / 8), ("c", 2 / 8)]}


def test_every_class_has_a_page_with_its_images(tmp_path: Path) -> None:
    rng, ids = np.random.default_rng(0), [f"{n}.jpg" for n in range(7)]
    counts = rng.integers(0, 50, (7, 3, 3))
    counts[:, 2] = 0  # no image shows the last class
    ensemble = make_ensemble(CLASSES, [make_member("0000"), make_member("0001")])
    labels = {rule.name: rule.name for rule in ensemble.rules}
    asked: list[str] = []

    def read(image_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        asked.append(image_id)
        label = rng.integers(0, 2, (40, 60)).astype(np.uint8)
        return rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), label, label

    write_class_pages(tmp_path, ClassPages("run", ensemble, labels, ids, counts), read)
    texts = [(tmp_path / page_name(k)).read_text(encoding="utf-8") for k in range(3)]
    assert [text.count('<img src="data:image/jpeg') for text in texts] == [24, 24, 0]
    assert set(asked) <= set(ids)
    assert "No hold-out image shows the class." in texts[2]
    assert "<b>Paper" not in texts[1]
    assert f'href="{page_name(2)}" rel="next"' in texts[1]
