"""The training pipeline from the cache to the batch.

Image (H,W,3) uint8 RGB and label (H,W) uint8 become (crop_px, crop_px): a window of the image, resized ONCE to the
random scale (bilinear; labels nearest), padded where the image is smaller, mixed with others, flipped, moved (all
geometric operators in one resampling), its colours changed. Image and label always move together; padding is
IGNORE_INDEX in the label, the ImageNet mean in the image.

albumentations' `Compose.set_random_seed` (2.0.8) gives every transform a generator of its own from the SAME seed, so
two flips at p = 0.5 would always agree: `reseed` lets all draw from one stream.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import albumentations as A
import numpy as np

from trainables.data.augment.build_transforms import Step, appearance_steps, geometry_steps, strong_steps
from trainables.data.augment.crop import PAD_RGB as PAD_RGB
from trainables.data.augment.crop import Pixels as Pixels
from trainables.data.augment.crop import ScaledCrop, base_factor
from trainables.data.augment.mirror import mirror_step
from trainables.data.augment.mixing import Mix
from trainables.files import write_text
from trainables.recipe.augmentation import Augmentation

STRIDE_PX = 32  # the coarsest feature of the pyramid


def train_transform(
    aug: Augmentation, seed: int, flip_pairs: Sequence[tuple[int, int]] = (), *, maps_sources: bool = False
) -> A.Compose:
    """The training pipeline of a recipe: call it with image= (H,W,3) and mask= (H,W), `reseed` it before each sample.

    Where the recipe mixes images, also with sources= (a `Sources`) and position= (of the image in its ids).

    `flip_pairs` are classes that change places in a mirrored image. With `maps_sources` it is also called with
    where= (a `source_map`), which moves as the label does; the draws stay the same. A mixed image has pixels of
    several sources: ValueError for a recipe that mixes.

    Colours come last: they then touch crop_px x crop_px pixels, whatever the source's size.
    """
    if maps_sources and aug.mixes:
        raise ValueError(
            "soft labels must be of one image's pixels, got an augmentation with mosaic, cutmix, classmix or "
            "copy_paste, which mixes several; turn these off"
        )
    steps: list[Step] = [ScaledCrop(aug.crop_px, aug.short_px, aug.scale_min, aug.scale_max, aug.cat_max_ratio)]
    if aug.mixes:
        steps.append(Mix.of(aug))
    if aug.hflip_p > 0:
        steps.append(mirror_step("horizontal", aug.hflip_p, flip_pairs))
    if aug.vflip_p > 0:
        steps.append(mirror_step("vertical", aug.vflip_p, flip_pairs))
    steps += geometry_steps(aug)
    if aug.colour_p > 0:
        steps.append(
            A.ColorJitter(
                brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.6, 1.4), hue=(-0.04, 0.04), p=aug.colour_p
            )
        )
    steps += appearance_steps(aug)
    pipeline = A.Compose(steps, additional_targets={"where": "mask"} if maps_sources else None)
    reseed(pipeline, seed)
    return pipeline


def weak_transform(aug: Augmentation, seed: int) -> A.Compose:
    """A recipe's windows, flips and geometry without its colours, mixing and cut-outs: how an unlabelled image is shown
    to the network whose prediction is then its label."""
    steps: list[Step] = [ScaledCrop(aug.crop_px, aug.short_px, aug.scale_min, aug.scale_max)]
    steps += [mirror_step("horizontal", aug.hflip_p, ())] if aug.hflip_p > 0 else []
    steps += [mirror_step("vertical", aug.vflip_p, ())] if aug.vflip_p > 0 else []
    pipeline = A.Compose([*steps, *geometry_steps(aug)])
    reseed(pipeline, seed)
    return pipeline


def strong_transform(seed: int) -> A.Compose:
    """Changes the colours of a weak view, and moves no pixel."""
    pipeline = A.Compose(strong_steps())
    reseed(pipeline, seed)
    return pipeline


def reseed(pipeline: A.Compose, *words: int) -> None:
    """Make the pipeline's next draws a function of `words` (integers from 0) alone; all steps share one stream."""
    seeds = np.random.SeedSequence(words)
    pipeline.set_random_state(np.random.default_rng(seeds), random.Random(int(seeds.generate_state(1, np.uint64)[0])))


def write_pipeline(pipeline: A.Compose, path: Path) -> None:
    """The resolved pipeline in albumentations' own serialisation, as JSON; `path` appears whole or not at all."""
    write_text(path, json.dumps(A.to_dict(pipeline), indent=1) + "\n")


def read_pipeline(path: Path) -> A.Compose:
    """A pipeline that replays what `write_pipeline` wrote, given equal words to `reseed` and equal sources to mix."""
    with warnings.catch_warnings():
        # RGBShift (2.0.8) writes down arguments of its base class, and warns when it reads them
        warnings.filterwarnings("ignore", message="Argument.*not valid for transform RGBShift")
        pipeline: A.Compose = A.from_dict(json.loads(path.read_text(encoding="utf-8")))
    return pipeline


def view_size(height: int, width: int, short_px: int | None, scale: float) -> tuple[int, int]:
    """(h, w) of a test-time view: each side the multiple of 32 nearest to `scale` times the side after `short_px`.

    The logit grid then covers the image exactly, and one bilinear resize takes it to the label's size.
    """
    factor = base_factor(height, width, short_px) * scale
    return _nearest_stride(height * factor), _nearest_stride(width * factor)


def _nearest_stride(side: float) -> int:
    return max(STRIDE_PX, int(side / STRIDE_PX + 0.5) * STRIDE_PX)
