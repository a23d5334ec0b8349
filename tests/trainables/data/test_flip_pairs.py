"""Left and right: what the names suggest, what the card may say, and that labels and logits follow a mirrored image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import albumentations as A
import numpy as np
import pytest
import torch
from mask_sets import card, write_both
from torch import nn

from trainables.data.augment.mix_sources import ObjectCutout, Sources
from trainables.data.augment.mixing import Mix
from trainables.data.augment.pipeline import reseed, train_transform
from trainables.data.card import DataProblems, read_card
from trainables.data.flip_pairs import suspected_pairs
from trainables.data.reader import read
from trainables.logits.predict_views import Inference, view_logits
from trainables.logits.view import View
from trainables.recipe.augmentation import Augmentation

PAIRS = ((1, 2),)


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (("left_shoe", "right_shoe", "hat"), [("left_shoe", "right_shoe")]),
        (("Shoe Left", "shoe right"), [("Shoe Left", "shoe right")]),
        (("handL", "handR"), [("handL", "handR")]),
        (("r_lung", "l_lung"), [("l_lung", "r_lung")]),
        (("arm-links", "arm-rechts", "Niere rechte", "Niere linke"), [
            ("arm-links", "arm-rechts"), ("Niere linke", "Niere rechte"),
        ]),
        (("leftover", "rightover", "left_shoe", "lamp", "ramp"), []),
    ],
)  # fmt: skip
def test_pairs_that_differ_in_a_side_alone(classes: tuple[str, ...], pairs: list[tuple[str, str]]) -> None:
    assert suspected_pairs(classes) == pairs


def made(root: Path, rules: str) -> Path:
    write_both(root, 2)
    parts = "train: {images: images, masks: masks}\nclasses: [background, left_shoe, right_shoe]\n"
    return card(root, "data.yaml", parts + rules)


def test_an_unspoken_pair_is_a_warning_and_a_spoken_one_is_not(tmp_path: Path) -> None:
    (warning,) = read(read_card(made(tmp_path, ""))).warnings
    assert "left and right change places" in warning
    assert warning.endswith("([left_shoe, right_shoe])")
    assert not read(read_card(made(tmp_path, "flip_pairs: []"))).warnings
    plain, spoken = (read(read_card(made(tmp_path, rules))) for rules in ("", "flip_pairs: [[left_shoe, right_shoe]]"))
    assert spoken.flip_pairs == PAIRS
    assert not spoken.warnings
    assert plain.fingerprint != spoken.fingerprint


def test_pairs_of_unknown_or_doubled_classes_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path, "flip_pairs: [[left_shoe, right_sho], [Background, left_shoe]]")
    with pytest.raises(DataProblems) as caught:
        read(read_card(path))
    assert caught.value.problems == [
        "flip_pairs names 'right_sho', which is no class; did you mean 'right_shoe'?",
        "flip_pairs names 'left_shoe' twice; a class changes places with one other",
    ]


@pytest.mark.parametrize(("hflip", "vflip", "mirrored"), [(1.0, 0.0, True), (0.0, 1.0, True), (0.0, 0.0, False)])
def test_a_mirrored_crop_has_its_sides_exchanged(hflip: float, vflip: float, mirrored: bool) -> None:
    aug = Augmentation(crop_px=32, scale_min=1, scale_max=1, hflip_p=hflip, vflip_p=vflip, colour_p=0)
    label = np.random.default_rng(0).choice([0, 1, 2, 255], (32, 32)).astype(np.uint8)
    image = np.dstack([label] * 3)
    pipeline = A.from_dict(A.to_dict(train_transform(aug, 0, PAIRS)))
    reseed(pipeline, 0)
    out = pipeline(image=image, mask=label)
    swapped = np.array([0, 2, 1, 255], np.uint8)[np.searchsorted([0, 1, 2, 255], out["image"][..., 0])]
    assert np.array_equal(out["mask"], swapped if mirrored else out["image"][..., 0])


def test_both_flips_restore_the_sides() -> None:
    aug = Augmentation(crop_px=32, scale_min=1, scale_max=1, hflip_p=1, vflip_p=1, colour_p=0)
    label = np.full((32, 32), 1, np.uint8)
    assert (train_transform(aug, 0, PAIRS)(image=np.dstack([label] * 3), mask=label)["mask"] == 1).all()


def test_a_pasted_object_that_is_mirrored_changes_its_side() -> None:
    aug = Augmentation.model_validate({"crop_px": 32, "copy_paste": {"p": 1.0, "objects_max": 1}})
    table = np.arange(256, dtype=np.uint8)
    table[[1, 2]] = 2, 1
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, 4:] = 200  # bright to the right, unless mirrored
    thing = ObjectCutout(half, np.ones((8, 8), np.uint8), 1, 0)
    sources: Any = SimpleNamespace(thing=lambda *_: thing, resize_factor=lambda _: 1.0, mirrored_class=table)
    mix, seen = A.Compose([Mix.of(aug)]), set()
    for seed in range(12):
        reseed(mix, seed)
        out = mix(
            image=np.zeros((32, 32, 3), np.uint8),
            mask=np.zeros((32, 32), np.uint8),
            sources=cast(Sources, sources),
            position=0,
        )
        columns = np.flatnonzero(out["mask"].any(axis=0))
        row = np.flatnonzero(out["mask"].any(axis=1))[3]
        mirrored = out["image"][row, columns[1], 0] > out["image"][row, columns[-2], 0]
        assert out["mask"].max() == (2 if mirrored else 1)
        seen.add(bool(mirrored))
    assert seen == {True, False}


class LeftIsRed(nn.Module):
    """Class 1 where an image is red, class 2 where it is green."""

    mean, std, stride = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([image[:, 2], image[:, 0], image[:, 1]], dim=1)


@pytest.mark.parametrize("view", [View(), View(1.0, "horizontal"), View(1.0, "vertical"), View(1.0, "horizontal", 90)])
def test_a_mirrored_view_gives_each_side_the_others_logits(view: View) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    images: Any = SimpleNamespace(image=lambda _: pixels, size=lambda _: pixels.shape[:2])
    inference = Inference(cast(Any, LeftIsRed()), None, "cpu", 1, "off", PAIRS)
    ((_, logits),) = view_logits(inference, images, ["a"], view)
    expected = (pixels / np.float32(255)).transpose(2, 0, 1)[[2, 0, 1]]  # (K,H,W)
    order = [0, 2, 1] if view.flip != "none" else [0, 1, 2]
    np.testing.assert_allclose(logits, expected[order], atol=1e-3)
