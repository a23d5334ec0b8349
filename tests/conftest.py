"""Shared by all tests: their order and who runs them, and the real data where this machine has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves trials beside the other test process


MAX_NAME = 80  # characters of a parameter in a test's name
RAY = ("tests/search/", "tests/trainables/test_ray_trainable.py")  # what starts a Ray of its own


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow runs come last. Of two processes, one has all tests of Ray, each of which takes several cores; the tests of
    a file stay together, as they share what is expensive to make."""

    def of_ray(item: pytest.Item) -> bool:
        return item.nodeid.startswith(RAY)

    def is_slow(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None

    items.sort(key=lambda item: (is_slow(item), not of_ray(item)))
    for item in items:
        if item.get_closest_marker("kills") and not os.environ.get("SEGSEARCH_KILLS"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make kills"))
        file = item.nodeid.partition("::")[0] + (", slow" if is_slow(item) else "")
        item.add_marker(pytest.mark.xdist_group("Ray" if of_ray(item) else file))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Of long texts and bytes their beginning and length: a name goes between processes several times per test."""
    if isinstance(val, str | bytes) and len(val) > MAX_NAME:
        begin = val[:MAX_NAME].decode("ascii", "backslashreplace") if isinstance(val, bytes) else val[:MAX_NAME]
        return f"{begin.encode('unicode_escape').decode()}...{len(val)}"
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with CamVid and the trash sample; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}")
    return folder


@pytest.fixture(scope="session")
def judged_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """A function from an executor and changed options to ensemble.json's bytes, of three made-up members, one with two
    views."""
    from factories import make_header, make_store

    from analysis.ensembling.fit import fit_ensemble
    from analysis.ensembling.judge_on_holdout import Provenance
    from analysis.ensembling.options import EnsembleOptions
    from analysis.ensembling.result import HoldoutOpening
    from analysis.voting.labelled_logits import LabelledLogits
    from trainables.data.cache import Cache
    from trainables.data.card import read_card
    from trainables.data.reader import read
    from trainables.data.synthetic.dataset import write_synthetic
    from trainables.logits.store import LogitStore

    root = tmp_path_factory.mktemp("judged")
    index = read(read_card(write_synthetic(root / "data", num_images=20, image_px=64, seed=0)))
    cache = Cache.open(index, root / "cache")
    ids = tuple(record.image_id for record in index.images)
    splits: dict[str, tuple[str, ...]] = {"val": ids[:11], "holdout": ids[11:]}
    views = {"a": ("s1.00-none",), "b": ("s1.00-none", "s1.00-horizontal"), "c": ("s1.00-none",)}
    for trial, names in views.items():
        for split in splits:
            for view in names:
                header = make_header(trial, classes=index.classes, split=split, view=view, stride=2)
                rng = np.random.default_rng([ord(trial), len(split), len(view)])
                skill = rng.uniform(0, 2, (index.num_classes, 1, 1))
                logits = {}
                for image_id in splits[split]:
                    known = np.arange(index.num_classes)[:, None, None] == cache.label(image_id)[::2, ::2]
                    noise = rng.normal(size=known.shape)
                    logits[image_id] = noise + skill * known
                make_store(root / trial / split, header, logits, cache.size)

    def judged(executor: Any, **changes: Any) -> bytes:
        val, holdout = (
            LabelledLogits.of([LogitStore(root / trial / split) for trial in views], images, cache, index)
            for split, images in splits.items()
        )
        out = tmp_path_factory.mktemp("out")
        options = {"sample_mb": 1, "resamples": 100, "folds": 2, "max_sweeps": 2, "postprocess": "off"}
        provenance = Provenance(HoldoutOpening(at="now", by="a test"))
        fit_ensemble(val, holdout, EnsembleOptions(**(options | changes)), provenance, out, executor=executor)
        return (out / "ensemble.json").read_bytes()

    return judged
