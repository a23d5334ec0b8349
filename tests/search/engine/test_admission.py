"""What is refused before it takes a device, and what a trial holds."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.engine.admission import Admission, AdmissionCheck, resources_of, some_sizes
from search.observers.trials_csv import CsvTable
from search.space.options import LargeResources, Options, Resources, Tta
from trainables.recipe.recipe import Recipe


def recipe_of(backbone: str = "test_convnext", head: str = "segformer", **train: Any) -> Recipe:
    values = {"backbone": {"name": backbone, "pretrained": False}, "head": {"name": head}, "train": train}
    return Recipe.model_validate(values | {"augmentation": {"crop_px": 64}})


def gate(device_gb: float | None, **resources: Any) -> AdmissionCheck:
    options = Options(resources=Resources(**resources), tta=Tta(scales=(0.5, 1.5)))
    return AdmissionCheck(options, 5, 64, ((64, 64), (64, 96)), device_gb)


def test_a_trial_that_fits_is_let_in_with_its_figures() -> None:
    found = gate(8.0).admit(recipe_of(batch_size=4))
    assert found.refusal is None
    assert found.params_m is not None and 0.1 < found.params_m < 2  # noqa: PT018
    assert found.memory_gb is not None and 0 < found.memory_gb < 1  # noqa: PT018
    halves = gate(8.0).admit(recipe_of(batch_size=4, accumulate=2))
    assert halves.memory_gb is not None and halves.memory_gb < found.memory_gb  # noqa: PT018


def test_what_cannot_fit_is_refused_with_the_figures() -> None:
    refusal = gate(0.001).admit(recipe_of()).refusal
    assert refusal is not None
    assert "segformer over test_convnext (0." in refusal
    assert "GiB for one image of 64 px and its optimiser, and the device has 0.00 GiB" in refusal
    assert "set train.grad_checkpointing" in refusal
    assert gate(None).admit(recipe_of()).refusal is None


def test_half_a_device_holds_half() -> None:
    whole = gate(1.0, gpu=1.0).admit(recipe_of(batch_size=1)).memory_gb
    assert whole is not None
    assert gate(1.5 * whole, gpu=1.0).admit(recipe_of(batch_size=1)).refusal is None
    assert "the device has" in (gate(1.5 * whole, gpu=0.5).admit(recipe_of(batch_size=1)).refusal or "")


def test_a_network_that_cannot_be_built_is_refused() -> None:
    refusal = gate(8.0).admit(recipe_of("convnext_nope")).refusal
    assert refusal is not None and refusal.startswith("refused before it took a device: unknown timm backbone")  # noqa: PT018


def test_every_scale_of_the_views_is_tried() -> None:
    assert gate(None).views_px(recipe_of()) == [(32, 32), (32, 64), (64, 64), (64, 96), (96, 96), (96, 160)]


def test_a_large_network_holds_more() -> None:
    resources = Resources(gpu=1, cpu=8, large=LargeResources(over_params_m=1.0, gpu=2, cpu=16))
    assert resources_of(resources, recipe_of(), 5) == {"gpu": 1, "cpu": 8}
    assert resources_of(resources, recipe_of("convnext_atto"), 5) == {"gpu": 2, "cpu": 16}
    assert resources_of(resources, recipe_of("convnext_nope"), 5) == {"gpu": 1, "cpu": 8}


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 3), (50, 6)])
def test_some_sizes_reach_from_the_smallest_to_the_largest(count: int, kept: int) -> None:
    sizes = [(10 + n, 10) for n in range(count)]
    found = some_sizes([*sizes, *sizes])
    assert (len(found), found[0], found[-1]) == (kept, sizes[0], sizes[-1])


@pytest.mark.parametrize(
    ("batch_size", "gpus", "said"),
    [(65, 1, "must not exceed the train split's images, got 65 and 64"), (6, 4, "divisible by 4 GPUs x 1 micro-")],
)
def test_a_batch_that_training_would_refuse_is_refused_before(batch_size: int, gpus: int, said: str) -> None:
    refusal = gate(None, gpu=gpus).admit(recipe_of(batch_size=batch_size)).refusal
    assert refusal is not None
    assert said in refusal


def test_a_refused_trial_is_a_failed_row_and_the_search_goes_on(search_in: Callable[..., Any], tmp_path: Path) -> None:
    def admit(recipe: Recipe) -> Admission:
        large = recipe.family == "swin"
        return Admission(123.4, 80.0 if large else 1.0, "needs 80 GiB, and the device has 40" if large else None)

    table = CsvTable(tmp_path / "trials.csv", classes=["a", "b"], clock=lambda: 0.0)
    rows = search_in(admit=admit, observers=[table], num_trials=4, max_epochs=2)
    refused = [row for row in rows if row.family == "swin"]
    assert len(rows) == 4
    assert refused
    assert {(row.state, row.error, row.epochs) for row in refused} == {
        ("FAIL", "needs 80 GiB, and the device has 40", 0)
    }
    assert all(row.state != "FAIL" for row in rows if row.family != "swin")
    with (tmp_path / "trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["memory_gb"] for line in lines if line["family"] == "swin"] == ["80.0"] * len(refused)
    assert {line["accumulate"] for line in lines} == {"1"}
    assert {line["params_m"] for line in lines} == {"123.4"}


def test_a_search_of_refused_trials_alone_ends(search_in: Callable[..., Any]) -> None:
    rows = search_in(admit=lambda recipe: Admission(refusal="too large"), num_trials=2)
    assert [(row.state, row.error) for row in rows] == [("FAIL", "too large")] * 2
