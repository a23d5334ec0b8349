"""Adversarial validation: a planted shift is found and named, none is not, and near-duplicates do not help."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from analysis.dataset.adversarial_validation import Comparison, _interval, compare
from analysis.dataset.image_features import FEATURES, measure, named_features, pooled_features


def scene(seed: int, brighter: float = 0.0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (6, 6, 3)) + rng.normal(0, 20)
    image = cv2.resize(coarse.clip(0, 255).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + brighter + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def compared(brighter: float, seed: int, num: int = 60) -> Comparison:
    pictures = {f"a{n}": scene(1000 * seed + n) for n in range(num)}
    pictures |= {f"b{n}": scene(500_000 + 1000 * seed + n, brighter) for n in range(num)}
    values = measure(list(pictures), pictures.__getitem__).astype(np.float64)
    a, b = values[:num], values[num:]
    named = {name: (a[:, f], b[:, f]) for f, name in enumerate(FEATURES)}
    return compare({"named": (a, b)}, named, list(pictures), seed=seed)


def test_a_planted_shift_is_found_and_named() -> None:
    found = compared(brighter=45.0, seed=0)
    assert found.auc.value > 0.9
    assert found.auc.low > 0.8
    first = max(found.features, key=lambda name: abs(found.features[name][0].value - 0.5))
    assert FEATURES[first] == "light"
    assert found.scores_b.mean() > found.scores_a.mean()


def test_without_a_shift_the_interval_holds_a_half() -> None:
    assert all(compared(brighter=0.0, seed=seed, num=40).auc.holds_half for seed in range(3))


def test_the_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores, is_b = rng.integers(0, 6, 50).astype(np.float64), rng.random(50) < 0.4
    assert _interval(scores, is_b, np.ones((4, 50))).value == pytest.approx(roc_auc_score(is_b, scores))


def test_copies_are_never_on_both_sides_of_the_classifier() -> None:
    rng = np.random.default_rng(3)
    scenes = rng.normal(size=(24, 12))  # every scene ten times; which set it is in is chance
    values = np.repeat(scenes, 10, axis=0) + rng.normal(0, 0.01, (240, 12))
    units = [str(n) for n in np.repeat(np.arange(24), 10)]
    a, b = values[:120], values[120:]
    apart = compare({"named": (a, b)}, {}, units, seed=0).auc
    blind = compare({"named": (a, b)}, {}, [str(n) for n in range(240)], seed=0).auc
    assert apart.holds_half
    assert blind.value > apart.value + 0.1  # the same data, had its copies not been told


def test_too_few_images_are_refused_and_few_scenes_said() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(ValueError, match="from 8 images each on, got 3 and 37"):
        compare({"named": (values[:3], values[3:])}, {}, ["x"] * 40, seed=0)
    few = compare({"named": (values[:20], values[20:])}, {}, ["burst"] * 20 + [str(n) for n in range(20)], seed=0)
    assert few.caveat is not None


def test_named_features_are_finite_for_any_picture() -> None:
    for image in (np.zeros((1, 1, 3), np.uint8), np.full((3, 700, 3), 255, np.uint8), scene(0)):
        values = named_features(image)
        assert values.shape == (len(FEATURES),)
        assert np.isfinite(values).all()


def test_network_features_are_seeded_and_unknown_names_refused() -> None:
    def read(name: str) -> NDArray[np.uint8]:
        return scene(int(Path(name).stem))

    names = [f"{n}.png" for n in range(3)]
    first, again = (pooled_features(names, read, seed=5, backbone="test_resnet") for _ in range(2))
    np.testing.assert_array_equal(first.values, again.values)
    assert "random filters" in first.source
    with pytest.raises(ValueError, match="must be a timm model, got 'resnot18'"):
        pooled_features(names, read, seed=0, backbone="resnot18")
