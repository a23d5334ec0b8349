"""Training augmentation in a recipe: types, presets and checks.

`preset` fills in values that are left open; a frozen `Augmentation` has every value written out, so that it can be
read without the presets. No numpy here: a space is checked in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from trainables.recipe.config import Config, Probability
from trainables.recipe.operators import (
    Blurs,
    ClassMix,
    Colour,
    CopyPaste,
    CutMix,
    Cutout,
    Elastic,
    Geometric,
    Group,
    Mosaic,
    Noise,
    NoPolicy,
    Operator,
    Policy,
)

_MMSEG: dict[str, Any] = {
    "scale_min": 0.5,
    "scale_max": 2.0,
    "cat_max_ratio": 0.75,
    "hflip_p": 0.5,
    "colour_p": 0.0,
    "colour": {"PhotoMetricDistortion": {"p": 1.0}},
}
# The first users' four recipes. Their lists are theirs; they kept no record of most probabilities and ranges, so those
# are each library's usual ones.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "convnext_knet": {
        **{key: value for key, value in _MMSEG.items() if key != "colour"},
        "vflip_p": 0.5,
        "geometric": {"ShiftScaleRotate": {"p": 0.5}, "Affine": {"p": 0.3}},
        "elastic": {
            "p": 0.3,
            "one_of": True,
            "ElasticTransform": {"p": 1.0},
            "Perspective": {"p": 1.0},
            "PiecewiseAffine": {"p": 1.0},
        },
        "colour": {
            "RandomBrightnessContrast": {"p": 0.5},
            "HueSaturationValue": {"p": 0.5},
            "CLAHE": {"p": 0.2},
            "channels": {"p": 0.2, "one_of": True, "RGBShift": {"p": 1.0}, "ChannelShuffle": {"p": 1.0}},
        },
        "noise": {"GaussNoise": {"p": 0.3}},
        "blur": {
            "p": 0.2,
            "one_of": True,
            "Blur": {"p": 1.0},
            "GaussianBlur": {"p": 1.0},
            "MedianBlur": {"p": 1.0},
        },
    },
    "swin_knet": {**_MMSEG, "cutout": {"CoarseDropout": {"p": 0.3}}, "mosaic": {"p": 0.3, "rare_class_weight": 0.5}},
    "beit": _MMSEG,
    "copy_paste": {**_MMSEG, "copy_paste": {"p": 0.5}},
}

# Mean milliseconds at 512 x 512 on one core (tests/benchmarks/bench_augment.py), and the remedy, of every operator that
# can take STARVES_MS. OpenCV's median of 7 px and more takes 25 ms, of less under 1; CLAHE 4 to 23 from core to core.
SLOW: dict[str, tuple[Callable[[Any], float], str]] = {
    "PiecewiseAffine": (lambda o: 3600.0 if o.exact else 3.3 + 0.11 * o.grid**2, "leave exact out and grid below 8"),
    "ElasticTransform": (lambda o: 60.0 if o.exact else 3.0, "leave exact out"),
    "GaussNoise": (lambda o: 16.0 if o.exact else 0.8, "leave exact out"),
    "CLAHE": (lambda _: 23.0, "take RandomBrightnessContrast for it"),
    "MedianBlur": (lambda o: 25.0 * max(0.0, 1 - 2 / ((o.kernel_max_px - 1) // 2)), "use a kernel_max_px of 5"),
    "GaussianBlur": (lambda o: 0.3 * o.sigma_max_px, "use a smaller sigma_max_px"),
    "GridDropout": (lambda o: 0.003 * (512 / o.cell_px) ** 2, "use a cell_px of 16 or more"),
}
STARVES_MS = 5.0  # on average a sample: as much as all the rest of a plain one, so that workers bring half as many


class Augmentation(Config):
    """Changes to the pixels before they reach the model while training.

    `short_px` is the only part that also holds at inference: views scale relative to it.
    """

    preset: Literal["none", "convnext_knet", "swin_knet", "beit", "copy_paste"] = "none"  # what is not given below
    short_px: Annotated[int, Field(ge=32, le=2**14)] | None = None  # resize so that the short side has this many pixels
    crop_px: Annotated[int, Field(ge=32, le=2**14)] = 512
    scale_min: Annotated[float, Field(gt=0.0, le=4.0)] = 0.5
    scale_max: Annotated[float, Field(gt=0.0, le=4.0)] = 2.0
    cat_max_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # crops are drawn anew while one class has more
    rare_class_weight: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0  # 0: each image once per epoch; else see Mixed
    num_views: Annotated[int, Field(ge=0, le=1000)] = (
        0  # of each image: the first epochs' draws come again; 0: new ones
    )
    hflip_p: Probability = 0.5
    vflip_p: Probability = 0.0
    colour_p: Probability = 0.5  # ColorJitter: brightness, contrast, saturation, hue
    geometric: Geometric = Geometric()
    elastic: Elastic = Elastic()
    colour: Colour = Colour()
    noise: Noise = Noise()
    blur: Blurs = Blurs()
    cutout: Cutout = Cutout()
    policy: Policy = NoPolicy()
    mosaic: Mosaic | None = None
    cutmix: CutMix | None = None
    classmix: ClassMix | None = None
    copy_paste: CopyPaste | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        preset = values.get("preset", "none") if isinstance(values, Mapping) else None
        known = isinstance(values, Mapping) and isinstance(preset, str) and preset in PRESETS
        return lay_over(PRESETS[str(preset)], values) if known else values

    @model_validator(mode="after")
    def _crop_and_scales(self) -> Augmentation:
        if self.crop_px % 32:
            low = self.crop_px // 32 * 32
            raise ValueError(f"crop_px must be divisible by 32, got {self.crop_px}; use {low} or {low + 32}")
        if self.scale_min > self.scale_max:
            raise ValueError(
                f"scale_min must not exceed scale_max, got {self.scale_min} and {self.scale_max}; swap them"
            )
        return self

    @model_validator(mode="after")
    def _grid_fits(self) -> Augmentation:
        grid = self.cutout.GridDropout
        if grid is not None and grid.p > 0 and grid.cell_px >= self.crop_px:
            raise ValueError(
                f"crop_px must hold a cell of cutout.GridDropout, got {self.crop_px} and cell_px {grid.cell_px}; "
                f"use a cell_px below {self.crop_px}"
            )
        return self

    @model_validator(mode="after")
    def _crop_fits(self, info: ValidationInfo) -> Augmentation:
        """Check sizes where the data is known: context={"image_sizes": [(height, width), ...]}."""
        if info.context is not None and "image_sizes" in info.context:
            self.check_sizes(info.context["image_sizes"])
        return self

    def check_sizes(self, sizes: list[tuple[int, int]]) -> None:
        """ValueError where the crop is larger than every image (height, width in px) even at `scale_max`."""
        sides = [
            self.scale_max * max(size) * (1.0 if self.short_px is None else self.short_px / min(size)) for size in sizes
        ]
        if sides and self.crop_px > max(sides):
            fits = max(32, int(max(sides)) // 32 * 32)
            raise ValueError(
                f"crop_px must not be larger than the images, got {self.crop_px} where the longest side is "
                f"{max(sides):.0f} px at scale_max {self.scale_max}; use {fits}"
            )

    @property
    def mixes(self) -> bool:
        return any(
            each is not None and each.p > 0 for each in (self.mosaic, self.cutmix, self.classmix, self.copy_paste)
        )

    def slow_operators(self) -> list[str]:
        """One line per operator that would keep a GPU waiting, with its YAML path and the remedy."""
        lines = []
        for path, operator, p in _applied(self):
            cost_ms, remedy = SLOW.get(path.rsplit(".", 1)[-1], (lambda _: 0.0, ""))
            mean_ms = p * cost_ms(operator)
            if mean_ms >= STARVES_MS:
                lines.append(
                    f"augmentation.{path}: takes about {mean_ms:.0f} ms per sample on average at 512 x 512, which may "
                    f"starve a GPU, with p {p:.2g}; {remedy}, or lower p"
                )
        return lines


def _applied(augmentation: Augmentation) -> list[tuple[str, Operator, float]]:
    """The operators of the groups: path, operator, probability of being applied."""
    found = []
    for name in type(augmentation).model_fields:
        group = getattr(augmentation, name)
        if isinstance(group, Group):
            operators = group.operators()
            total = sum(each.p for each in operators.values()) if group.one_of else 1.0
            found += [(f"{name}.{key}", each, group.p * each.p / total) for key, each in operators.items()]
    return found


def lay_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on `base`, key by key into mappings and sections; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        inner = value.model_dump(exclude_unset=True) if isinstance(value, Config) else value
        old = merged.get(key)
        merged[key] = lay_over(old, inner) if isinstance(old, Mapping) and isinstance(inner, Mapping) else value
    return merged
