"""The types of augmentation: presets under what is given, written out in full, checked against the data."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainables.recipe.augmentation import PRESETS, Augmentation


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_written_out_reads_back_as_itself(name: str) -> None:
    first = Augmentation(preset=name)  # type: ignore[arg-type]
    assert Augmentation.model_validate(first.model_dump(mode="json")) == first
    assert Augmentation.model_validate_json(first.model_dump_json()) == first


def test_what_is_given_lies_over_the_preset() -> None:
    given = {"preset": "convnext_knet", "noise": {"GaussNoise": {"p": 0.0}}, "colour": {"CLAHE": {"clip_max": 2.0}}}
    augmentation = Augmentation.model_validate(given)
    assert augmentation.noise.operators() == {}
    assert augmentation.colour.CLAHE is not None
    assert (augmentation.colour.CLAHE.p, augmentation.colour.CLAHE.clip_max) == (0.2, 2.0)
    assert set(augmentation.elastic.operators()) == {"ElasticTransform", "Perspective", "PiecewiseAffine"}
    assert augmentation.crop_px == 512


def test_the_default_applies_no_operator() -> None:
    plain = Augmentation()
    groups = (
        plain.geometric,
        plain.elastic,
        plain.colour,
        plain.colour.channels,
        plain.noise,
        plain.blur,
        plain.cutout,
    )
    assert [group.operators() for group in groups] == [{}] * 7
    assert not plain.mixes


def test_a_crop_larger_than_every_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop_px must not be larger than the images, got 1024 .* 960 px .*; use 960"):
        Augmentation(crop_px=1024).check_sizes([(360, 480), (300, 300)])
    Augmentation(crop_px=960).check_sizes([(360, 480)])
    with pytest.raises(ValueError, match="crop_px must not be larger"):
        Augmentation(crop_px=512, short_px=128, scale_max=1.5).check_sizes([(1000, 1000)])


def test_slow_operators_are_told_only_where_they_are_slow() -> None:
    assert Augmentation(preset="convnext_knet").slow_operators() == []
    exact = {"preset": "convnext_knet", "elastic": {"PiecewiseAffine": {"exact": True}}}
    (line,) = Augmentation.model_validate(exact).slow_operators()
    assert line.startswith("augmentation.elastic.PiecewiseAffine: takes about 360 ms per sample on average")


@pytest.mark.parametrize(
    ("section", "slow", "quick"),
    [
        ("colour", {"CLAHE": {"p": 0.5}}, {"CLAHE": {"p": 0.2}}),
        ("blur", {"MedianBlur": {"p": 1.0}}, {"MedianBlur": {"p": 1.0, "kernel_max_px": 5}}),
        ("blur", {"GaussianBlur": {"p": 1.0, "sigma_max_px": 20}}, {"GaussianBlur": {"p": 1.0}}),
        ("cutout", {"GridDropout": {"p": 0.5, "cell_px": 8}}, {"GridDropout": {"p": 1.0}}),
        ("elastic", {"PiecewiseAffine": {"p": 0.5, "grid": 16}}, {"PiecewiseAffine": {"p": 0.5}}),
        ("colour", {"p": 0.6, "one_of": True, "CLAHE": {"p": 1.0}, "HueSaturationValue": {"p": 1.0}}, {}),
    ],
)
def test_every_operator_is_told_by_its_own_cost(section: str, slow: dict[str, Any], quick: dict[str, Any]) -> None:
    (line,) = Augmentation.model_validate({section: slow}).slow_operators()
    assert line.startswith(f"augmentation.{section}.{next(key for key in slow if key[0].isupper())}: takes about ")
    assert "or lower p" in line
    assert Augmentation.model_validate({section: quick}).slow_operators() == []


def test_a_grid_s_cell_must_fit_into_the_crop() -> None:
    with pytest.raises(ValidationError, match=r"crop_px must hold a cell of cutout.GridDropout, got 64 and cell_px 64"):
        Augmentation.model_validate({"crop_px": 64, "cutout": {"GridDropout": {}}})
