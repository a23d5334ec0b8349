"""Builds the albumentations transforms of a recipe, in the order in which they are applied.

They share nothing but the random stream that `reseed` gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import albumentations as A

from trainables.data.augment.geometry import Warp
from trainables.data.augment.photometric import PhotoMetricDistortion, TableNoise
from trainables.data.index import IGNORE_INDEX
from trainables.recipe.augmentation import Augmentation
from trainables.recipe.operators import GaussNoiseOp, Group, Policy, RandAugment

NOISE_LOW = 0.01
Step: TypeAlias = A.BasicTransform | A.BaseCompose


def geometry_steps(aug: Augmentation) -> list[Step]:
    """All geometric and elastic operators as one step, or none."""
    if not aug.geometric.operators() and not aug.elastic.operators():
        return []
    return [Warp(aug.geometric.model_dump(), aug.elastic.model_dump())]


def appearance_steps(aug: Augmentation) -> list[Step]:
    """Colours, the policy, noise, blur, cut-outs."""
    colour = group_steps(aug.colour) + group_steps(aug.colour.channels)
    return [*colour, *policy_steps(aug.policy), *(s for g in (aug.noise, aug.blur, aug.cutout) for s in group_steps(g))]


def strong_steps() -> list[Step]:
    """The colours of a strong view, as UniMatch has them (Yang et al. 2023); labels stay true."""
    jitter = {"brightness": (0.5, 1.5), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.25, 0.25)}
    return [
        A.ColorJitter(**jitter, p=0.8),
        A.ToGray(p=0.2),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
    ]


def group_steps(group: Group) -> list[Step]:
    """The operators of a group, each by itself or one of them."""
    steps = [PIXEL_STEPS[name](operator) for name, operator in group.operators().items()]
    if not steps:
        return []
    if group.one_of:
        return [A.OneOf(steps, p=group.p)]  # takes the operators' p as weights
    return steps if group.p == 1.0 else [A.Sequential(steps, p=group.p)]


def policy_steps(policy: Policy) -> list[Step]:
    """TrivialAugment or RandAugment over the operators that leave labels true."""
    if policy.name == "none" or policy.p == 0:
        return []
    if isinstance(policy, RandAugment):
        chosen = [each for sign in (-1, 1) for each in label_safe(policy.magnitude, sign)]
        return [A.Sequential([A.SomeOf(chosen, n=policy.num_ops, replace=True, p=1.0)], p=policy.p)]
    return [A.OneOf(label_safe(1.0, None), p=policy.p)]


def label_safe(magnitude: float, sign: int | None) -> list[Step]:
    """The policies' operators at a strength of 0 to 1, or, without a sign, at one drawn up to it.

    Left out of the papers' lists: Invert and Solarize, after which a colour no longer tells a class, and Cutout, which
    hides what the label says. The label follows the geometric ones.
    """
    low = 0.0 if sign is None else magnitude

    def ends(full: float) -> tuple[float, float]:
        """Of a signed range of `full` on either side of 0."""
        span = full * magnitude
        return (-span, span) if sign is None else (sign * span, sign * span)

    def factors(full: float) -> tuple[float, float]:
        least, most = ends(full)
        return (1 + least, 1 + most)

    bits = round(8 - 4 * magnitude)
    still = {"scale_limit": 0.0, "translate_limit": 0.0, "rotate_limit_deg": 0.0, "shear_limit_deg": 0.0}
    geometry = ({"rotate_limit_deg": 30.0}, {"shear_limit_deg": 17.0}, {"translate_limit": 0.15})
    warps = [
        Warp({"Affine": {**still, **{key: value * magnitude for key, value in change.items()}, "p": 1.0}})
        for change in geometry
    ]
    return [
        A.NoOp(p=1.0),
        *warps,
        A.ColorJitter(brightness=factors(0.9), contrast=(1, 1), saturation=(1, 1), hue=(0, 0), p=1.0),
        A.ColorJitter(brightness=(1, 1), contrast=factors(0.9), saturation=(1, 1), hue=(0, 0), p=1.0),
        A.ColorJitter(brightness=(1, 1), contrast=(1, 1), saturation=factors(0.9), hue=(0, 0), p=1.0),
        A.Sharpen(alpha=(low * 0.9, magnitude * 0.9), lightness=(1.0, 1.0), p=1.0),
        A.Posterize(num_bits=(bits, 8) if sign is None else (bits, bits), p=1.0),
        A.AutoContrast(p=1.0),
        A.Equalize(p=1.0),
    ]


def _noise(operator: GaussNoiseOp) -> Step:
    if operator.exact:
        return A.GaussNoise(std_range=(NOISE_LOW, operator.std_max), p=operator.p)
    return TableNoise(std_min=NOISE_LOW, std_max=operator.std_max, p=operator.p)


def _odd(kernel_px: int) -> int:
    """The largest odd kernel within the limit: a kernel needs a middle."""
    return kernel_px - 1 + kernel_px % 2


def _hidden(label: str) -> int | None:
    return IGNORE_INDEX if label == "ignore" else None


PIXEL_STEPS: dict[str, Callable[[Any], Step]] = {
    "PhotoMetricDistortion": lambda o: PhotoMetricDistortion(**o.model_dump()),
    "RandomBrightnessContrast": lambda o: A.RandomBrightnessContrast(
        brightness_limit=o.brightness_limit, contrast_limit=o.contrast_limit, p=o.p
    ),
    "HueSaturationValue": lambda o: A.HueSaturationValue(
        hue_shift_limit=o.hue_shift_limit,
        sat_shift_limit=o.sat_shift_limit,
        val_shift_limit=o.val_shift_limit,
        p=o.p,
    ),
    "CLAHE": lambda o: A.CLAHE(clip_limit=(1.0, o.clip_max), tile_grid_size=(o.tiles, o.tiles), p=o.p),
    "RGBShift": lambda o: A.RGBShift(
        r_shift_limit=o.r_shift_limit, g_shift_limit=o.g_shift_limit, b_shift_limit=o.b_shift_limit, p=o.p
    ),
    "ChannelShuffle": lambda o: A.ChannelShuffle(p=o.p),
    "GaussNoise": _noise,
    "Blur": lambda o: A.Blur(blur_limit=(3, _odd(o.kernel_max_px)), p=o.p),
    "GaussianBlur": lambda o: A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, o.sigma_max_px), p=o.p),
    "MedianBlur": lambda o: A.MedianBlur(blur_limit=(3, _odd(o.kernel_max_px)), p=o.p),
    "CoarseDropout": lambda o: A.CoarseDropout(
        num_holes_range=(1, o.holes_max),
        hole_height_range=(0.02, o.side_max),
        hole_width_range=(0.02, o.side_max),
        fill=0,
        fill_mask=_hidden(o.label),
        p=o.p,
    ),
    "GridDropout": lambda o: A.GridDropout(
        ratio=o.ratio,
        unit_size_range=(o.cell_px, o.cell_px + 1),
        random_offset=True,
        fill=0,
        fill_mask=_hidden(o.label),
        p=o.p,
    ),
}
