"""What an attempt asks of a GPU before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.recipe import Augmentation, Backbone, Recipe, SegFormerHead, Train
from trainables.training.attempt import attempt
from trainables.training.trial import Trial


@pytest.mark.skipif(torch.cuda.is_available(), reason="would train: tests/gpu does")
def test_a_gpu_is_set_up_before_its_memory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before that torch knows no device by its number."""
    index = read(read_card(write_synthetic(tmp_path / "set", num_images=18, image_px=64, seed=0)))
    recipe = Recipe(
        backbone=Backbone(name="test_convnext", pretrained=False),
        head=SegFormerHead(channels=16),
        augmentation=Augmentation(crop_px=32),
        train=Train(batch_size=2, num_workers=0, amp="off"),
    )
    trial = Trial(recipe, Cache.open(index, tmp_path / "cache"), make_split(index, seed=0), tmp_path, "cuda:1")
    asked = []
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    with pytest.raises((RuntimeError, AssertionError)):  # there is none
        attempt(trial, lambda _: None, accumulate=1, resume_from=None, clock=lambda: 0.0)
    assert asked == ["init", "cuda:1"]
