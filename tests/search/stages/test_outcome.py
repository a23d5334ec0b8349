"""What trackers are told of a run's end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from factories import make_ensemble, make_member
from PIL import Image

from analysis.report.samples import GAP_PX, write_samples
from search.run_dir import RunDir
from search.stages.outcome import outcome_of


def test_the_outcome_has_a_row_per_rule_and_the_verdict(tmp_path: Path) -> None:
    run, ensemble = RunDir(tmp_path), make_ensemble(["sky", "car"], [make_member("00000"), make_member("00001")])
    ensemble.write(run.ensemble_json)
    outcome = outcome_of(run)
    assert outcome.verdict == ensemble.verdict.sentence
    assert [row["rule"] for row in outcome.rules] == [rule.name for rule in ensemble.rules]
    assert [row["mIoU hold-out"] for row in outcome.rules] == [rule.holdout.miou for rule in ensemble.rules]
    assert (outcome.bundle, outcome.report) == (run.bundle, run.report)
    assert outcome.samples == {}  # an earlier version's report stage wrote none


def test_the_outcome_has_the_worst_median_and_best_image_of_the_hold_out(tmp_path: Path) -> None:
    run, ensemble = RunDir(tmp_path), make_ensemble(["sky", "car"], [make_member("00000")])
    ensemble.write(run.ensemble_json)
    rng = np.random.default_rng(0)
    image, truth = rng.integers(0, 256, (60, 40, 3), np.uint8), rng.integers(0, 2, (60, 40), np.uint8)
    write_samples(run.samples, ensemble, lambda _: (image, truth, truth))
    captions = {path.name: caption for path, caption in outcome_of(run).samples.items()}
    assert captions == {  # made-up scores: 0.9, 0.8, 0.7
        "worst-1.jpg": "Worst 1: 2.jpg, mIoU 0.700 (photograph, labels, prediction)",
        "worst-2.jpg": "Worst 2: 1.jpg, mIoU 0.800 (photograph, labels, prediction)",
        "best-1.jpg": "Best 1: 0.jpg, mIoU 0.900 (photograph, labels, prediction)",
    }
    with Image.open(run.samples / "best-1.jpg") as picture:
        assert picture.size == (3 * 40 + 2 * GAP_PX, 60)
