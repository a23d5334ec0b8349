"""Costs of views: measured times, kept beside the logits, and counts where nothing was measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from analysis.ensembling.costs import costs_of
from trainables.logits.latency import COST_FILE, measure_ms
from trainables.logits.predict_views import Inference
from trainables.logits.view import View


class Model(torch.nn.Module):
    mean, std, stride = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Pictures:
    def image(self, _image_id: str) -> np.ndarray:
        return np.zeros((32, 32, 3), np.uint8)

    def size(self, _image_id: str) -> tuple[int, int]:
        return 32, 32


def test_a_few_images_are_timed_after_a_warm_up() -> None:
    seconds = [9.0, 0.010, 0.020, 0.500, 0.030, 0.040]  # the first is the warm-up
    ticks = iter([t for i, taken in enumerate(seconds) for t in (100 * i, 100 * i + taken)])
    model: Any = Model()
    inference = Inference(model, short_px=None, device="cpu", batch_size=8, amp="off")
    found = measure_ms(inference, Pictures(), [str(i) for i in range(23)], View(), lambda: next(ticks))
    assert found == pytest.approx([10, 20, 500, 30, 40])
    assert next(ticks, None) is None


def store(folder: Path, ms: dict[str, float] | None, device: str = "cpu") -> Any:
    folder.mkdir()
    if ms is not None:
        (folder / COST_FILE).write_text(json.dumps({"device": device, "ms_an_image": ms}))
    return SimpleNamespace(folder=folder)


def test_costs_are_those_of_the_chosen_views(tmp_path: Path) -> None:
    stores = [store(tmp_path / "a", {"u": 2.0, "v": 3.0}), store(tmp_path / "b", {"u": 5.0}, "H200")]
    costs = costs_of(stores, [["v", "u"], ["u"]], 9.0)
    assert (costs.unit, costs.in_order([["v", "u"], ["u"]])) == ("ms", [[3.0, 2.0], [5.0]])
    assert costs.total([["v"], ["u"]]) == 8
    assert "H200, cpu" in (costs.caveat or "")


@pytest.mark.parametrize("ms", [None, {"u": 2.0}])
def test_one_view_without_a_measurement_makes_all_count_as_views(tmp_path: Path, ms: dict[str, float] | None) -> None:
    stores = [store(tmp_path / "a", {"u": 2.0, "v": 3.0}), store(tmp_path / "b", ms)]
    costs = costs_of(stores, [["u", "v"], ["u", "v"]], None)
    assert (costs.unit, costs.total([["u", "v"], ["v"]])) == ("views", 3)
    with pytest.raises(ValueError, match=r"got 4 ms, and no cost\.json that names view"):
        costs_of(stores, [["u", "v"], ["u", "v"]], 4.0)
