"""Measures what bundles cost per image, side by side: from pixels to labels, one image at a time, on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from analysis.bundle.predictor import Image, Predictor

NUM_IMAGES = 8
NUM_ROUNDS = 3


def measure_ms(
    predictors: Mapping[str, Predictor], images: Sequence[Image], clock: Callable[[], float]
) -> dict[str, float]:
    """The median milliseconds per image of each. They take turns, so that a machine which slows down slows all of them;
    each sees one image before it is timed. `clock` gives seconds."""
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    for predictor in predictors.values():
        predictor.predict(images[0])
    for _ in range(NUM_ROUNDS):
        for image in images[:NUM_IMAGES]:
            for name, predictor in predictors.items():
                start = clock()
                predictor.predict(image)
                taken[name].append(1000 * (clock() - start))
    return {name: float(median(each)) for name, each in taken.items()}
