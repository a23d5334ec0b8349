"""Two runs are paired image by image, whatever order their images have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_ensemble, make_member, make_row
from safetensors.numpy import save_file

from search.run_dir import RunDir
from search.space.options import Options
from search.stages.compare_runs import flat, pair, progress

ENSEMBLE = make_ensemble(["a", "b"], [make_member("00000"), make_member("00001")])
OPTIONS = Options.model_validate({"ensemble": {"resamples": 200}})


def make_run(root: Path, ids: list[str], counts: np.ndarray, fingerprint: str = "d") -> RunDir:
    root.mkdir()
    meta = {"holdout_ids": json.dumps(ids), "val_ids": json.dumps(ids)}
    save_file({"member_class/holdout": counts}, root / "confusions.safetensors", meta)
    (root / "run.json").write_text(json.dumps({"data_fingerprint": fingerprint, "card": "nowhere.yaml"}))
    return RunDir(root)


@pytest.fixture
def counts() -> Any:
    return np.random.default_rng(0).integers(1, 50, (12, 2, 2))


IDS = [f"{n}.jpg" for n in range(12)]


def test_a_run_beside_itself_in_another_order_gains_nothing(tmp_path: Path, counts: Any) -> None:
    order = np.random.default_rng(1).permutation(12)
    a = make_run(tmp_path / "a", IDS, counts)
    b = make_run(tmp_path / "b", [IDS[n] for n in order], counts[order])
    found = pair((a, b), (ENSEMBLE, ENSEMBLE), "holdout", OPTIONS)
    assert found.gain is not None
    assert (found.gain.gain, found.gain.low, found.gain.high, found.num_images) == (0, 0, 0, 12)


def test_a_better_run_gains_in_every_class(tmp_path: Path, counts: Any) -> None:
    better = counts.copy()
    better[:, 0, 0] += better[:, 0, 1]
    better[:, 0, 1] = 0
    runs = make_run(tmp_path / "a", IDS, counts), make_run(tmp_path / "b", IDS, better)
    found = pair(runs, (ENSEMBLE, ENSEMBLE), "holdout", OPTIONS)
    assert found.gain is not None
    assert found.gain.is_above_zero
    assert all(gain.is_above_zero for gain in found.by_class.values())


def test_other_images_and_other_data_are_not_paired(tmp_path: Path, counts: Any) -> None:
    a = make_run(tmp_path / "a", IDS, counts)
    strange = make_run(tmp_path / "b", [*IDS[:-1], "x.jpg"], counts)
    assert "different images" in pair((a, strange), (ENSEMBLE, ENSEMBLE), "holdout", OPTIONS).why_not
    relabelled = make_run(tmp_path / "c", IDS, counts, "other")
    assert "their data differ" in pair((a, relabelled), (ENSEMBLE, ENSEMBLE), "holdout", OPTIONS).why_not


def test_without_the_card_groups_are_unknown_and_no_interval_is_made_up(tmp_path: Path, counts: Any) -> None:
    runs = make_run(tmp_path / "a", IDS, counts), make_run(tmp_path / "b", IDS, counts)
    grouped = ENSEMBLE.model_copy(update={"unit": "group"})
    found = pair(runs, (grouped, grouped), "holdout", OPTIONS)
    assert found.gain is None
    assert "the card that names the groups of images cannot be read" in found.why_not


def test_progress_is_the_best_so_far_by_hours_spent() -> None:
    scores = [0.3, None, 0.2, 0.5]
    rows = [make_row(n, "COMPLETE", best_miou=score, device_s=1800.0) for n, score in enumerate(scores)]
    assert progress(rows[::-1]) == [(0.5, 0.3), (1.5, 0.3), (2.0, 0.5)]


def test_a_tree_is_flat_by_dotted_keys() -> None:
    assert flat({"a": {"b": [1, 2], "c": None}, "d": 0.5}) == {"a.b": "[1, 2]", "a.c": "None", "d": "0.5"}
