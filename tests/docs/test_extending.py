"""The changes that docs/extending.md shows apply to the sources and work."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from docs.patched import DIFFS, applied

HEADINGS = ["A head", "An augmentation operator", "An ensemble rule", "A tracker", "A stage", "A key"]
SPACE = "model: {backbone: test_convnext, head: segformer}\n"


def test_every_section_shows_one_change() -> None:
    assert list(DIFFS) == HEADINGS


@pytest.mark.parametrize("heading", HEADINGS)
def test_changes_are_short(heading: str) -> None:
    assert sum(line.startswith("+") for line in DIFFS[heading].splitlines()) < 40


def test_head() -> None:
    with applied("A head"):
        from trainables.models.backbones import build_backbone
        from trainables.models.heads import build_head, features_read
        from trainables.models.segmentor import Segmentor
        from trainables.recipe.recipe import Recipe

        recipe = Recipe.model_validate(
            {"backbone": {"name": "test_convnext", "pretrained": False}, "head": {"name": "finest"}}
        )
        backbone = build_backbone(recipe.backbone, features_read(recipe.head))
        model = Segmentor(backbone, build_head(recipe.head, backbone.channels, backbone.strides, 5), 5)
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 5, 16, 24)


def test_operator() -> None:
    with applied("An augmentation operator", ("trainables.recipe.augmentation", "trainables.data.augment.pipeline")):
        from trainables.data.augment.pipeline import reseed, train_transform
        from trainables.recipe.augmentation import Augmentation

        image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        still: dict[str, Any] = {"crop_px": 64, "hflip_p": 0.0, "colour_p": 0.0}
        outs = []
        for p in (0.0, 1.0):
            pipeline = train_transform(Augmentation(**still, noise={"ISONoise": {"p": p}}), seed=0)
            reseed(pipeline, 0)
            outs.append(pipeline(image=image, mask=image[..., 0]))
        assert np.array_equal(outs[0]["mask"], outs[1]["mask"])
        assert not np.array_equal(outs[0]["image"], outs[1]["image"])


def test_rule() -> None:
    """Members 0 and 2 are each right where the other is unsure, member 1 is the best alone and adds nothing."""
    with applied("An ensemble rule"):
        from analysis.ensembling.rules import JOINT, Sample, fit_rules
        from analysis.report.page import RULE_LABELS
        from analysis.weight_search.pixels import Pixels

        truth = np.tile(np.array([0, 1], np.uint8), 50)
        right = np.full((3, 100), 0.45, np.float32)  # each member's probability of the true class
        right[0, :50], right[1, :70], right[2, 50:] = 0.9, 0.51, 0.9
        q = np.stack([np.where(truth == k, right, 1 - right) for k in (0, 1)], axis=1)
        (vote,) = fit_rules(Sample(Pixels(np.ascontiguousarray(q), truth)), ["best_pair"])["best_pair"]
        assert vote.weights.tolist() == [[1, 1], [0, 0], [1, 1]]
        assert "best_pair" in JOINT
        assert RULE_LABELS["best_pair"] == "Best pair"


def test_tracker(tmp_path: Path) -> None:
    with applied("A tracker"):
        from search.observers.search_info import SearchInfo
        from search.observers.trackers import build_trackers
        from search.observers.trial_row import TrialRow
        from search.run_dir import RunDir
        from search.space.options import Options

        (tracker,) = build_trackers(Options(trackers=("tsv",)).trackers, SearchInfo(RunDir(tmp_path)))
        row = TrialRow("00003", 3, "RUNNING", "hash", "convnext", "convnext_atto", "segformer", epochs=2)
        tracker.epoch(row, {"val/miou": 0.25})
        assert (tmp_path / "curves.tsv").read_text(encoding="utf-8") == "00003\t2\t0.25\n"


def test_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with applied("A stage"):
        from search.pipeline import STAGES, run_all
        from search.run_dir import RunDir
        from search.stages import licences
        from search.stages.stage import Context, Stage

        assert list(STAGES) == list(Stage)
        run = RunDir(tmp_path)
        before = [name for name in Stage if name not in (Stage.licences, Stage.report)]
        run.run_json.write_text(json.dumps({"stages": dict.fromkeys(before, "2026-01-01")}), encoding="utf-8")
        bundle: Any = type("Bundle", (), {"manifest": type("Manifest", (), {"licences": ("CC BY 4.0", "MIT")})})
        monkeypatch.setattr(licences, "read_bundle", lambda folder: bundle)
        nothing: Any = None
        now = datetime(2026, 1, 31, tzinfo=UTC)
        run_all(Context(run, nothing, nothing, lambda text: None, lambda: now), until=Stage.licences)
        assert (tmp_path / "LICENCES.txt").read_text(encoding="utf-8") == "CC BY 4.0\nMIT\n"
        assert json.loads(run.run_json.read_text(encoding="utf-8"))["stages"]["licences"] == now.isoformat()


def test_key(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    with applied("A key", ("search.space",)):
        from search.space.space import SpaceProblems, load_space
        from trainables.recipe.recipe import Loss
        from trainables.training.losses import build_loss

        path.write_text(f"{SPACE}loss: {{name: focal, focal_gamma: {{float: [0, 4]}}}}\n", encoding="utf-8")
        assert "loss/focal_gamma" in [each.name for each in load_space(str(path)).parameters()]
        path.write_text(f"{SPACE}loss: {{name: focal, focal_gamma: 9}}\n", encoding="utf-8")
        with pytest.raises(SpaceProblems, match=r"loss\.focal_gamma.*9"):
            load_space(str(path))
        logits, label = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
        focal = build_loss(Loss(name="focal", focal_gamma=0.0), 3)(logits, label)
        assert torch.allclose(focal, torch.nn.functional.cross_entropy(logits, label))


def test_changes_are_undone(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"{SPACE}loss: {{name: focal, focal_gamma: 1.0}}\n", encoding="utf-8")
    from search.space.space import SpaceProblems, load_space

    with pytest.raises(SpaceProblems, match="focal_gamma"):
        load_space(str(path))
