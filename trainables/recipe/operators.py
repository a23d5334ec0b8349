"""The augmentation operators: one type each, by their albumentations names, in the groups that a space has.

`p` is the probability that an operator is applied; an operator that a group does not name is off. Ranges are written
by their ends, so that each is one number to search: a `..._limit` l draws from -l to l (for a scale: from 1 - l to
1 + l), a `..._max` from the operator's least to itself. In a group with `one_of: true` one operator is applied with
the group's own `p`, and the operators' p are its weights. The operators are implemented in `trainables.data.augment`;
neither numpy nor albumentations is imported here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainables.recipe.config import Config, Probability

Limit = Annotated[float, Field(ge=0.0, lt=1.0)]
Degrees = Annotated[float, Field(ge=0.0, le=180.0)]
Levels = Annotated[int, Field(ge=0, le=255)]  # of 0 to 255
KernelPx = Annotated[int, Field(ge=3, le=99)]


class Operator(Config):
    p: Probability = 0.5


class Group(Config):
    p: Probability = 1.0
    one_of: bool = False

    def operators(self) -> dict[str, Operator]:
        """Those that may be applied, by name, in the order of their definition."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: each for name, each in named.items() if isinstance(each, Operator) and each.p > 0 < self.p}


class AffineOp(Operator):
    scale_limit: Limit = 0.1  # each side by its own draw
    translate_limit: Limit = 0.1  # shares of the sides
    rotate_limit_deg: Degrees = 15.0
    shear_limit_deg: Annotated[float, Field(ge=0.0, le=60.0)] = 5.0


class ShiftScaleRotateOp(Operator):
    shift_limit: Limit = 0.0625  # shares of the sides
    scale_limit: Limit = 0.1  # both sides alike
    rotate_limit_deg: Degrees = 45.0


class PerspectiveOp(Operator):
    scale_max: Annotated[float, Field(ge=0.05, le=0.4)] = 0.1  # std of the corners' way inwards, from 0.05


class ElasticTransformOp(Operator):
    alpha: Annotated[float, Field(gt=0.0, le=1000.0)] = 100.0
    sigma_px: Annotated[float, Field(ge=4.0, le=100.0)] = 8.0  # how smooth the field is
    exact: bool = False  # noise at every pixel, as albumentations draws it, and not on a coarse grid


class PiecewiseAffineOp(Operator):
    scale_max: Annotated[float, Field(ge=0.03, le=0.2)] = 0.05  # of the control points' jitter, from 0.03
    grid: Annotated[int, Field(ge=2, le=16)] = 4  # control points a side
    exact: bool = False  # albumentations' own loop over the pixels


class RGBShiftOp(Operator):
    r_shift_limit: Levels = 20
    g_shift_limit: Levels = 20
    b_shift_limit: Levels = 20


class ChannelShuffleOp(Operator):
    pass


class RandomBrightnessContrastOp(Operator):
    brightness_limit: Limit = 0.2
    contrast_limit: Limit = 0.2


class HueSaturationValueOp(Operator):
    hue_shift_limit: Annotated[int, Field(ge=0, le=90)] = 20  # of 180
    sat_shift_limit: Levels = 30
    val_shift_limit: Levels = 20


class CLAHEOp(Operator):
    clip_max: Annotated[float, Field(ge=1.0, le=40.0)] = 4.0
    tiles: Annotated[int, Field(ge=2, le=32)] = 8  # a side


class PhotoMetricDistortionOp(Operator):
    """mmsegmentation's: brightness, contrast, saturation and hue, each with probability 0.5; contrast first or last."""

    brightness_delta: Levels = 32
    contrast_limit: Limit = 0.5
    saturation_limit: Limit = 0.5
    hue_delta: Annotated[int, Field(ge=0, le=90)] = 18  # of 180


class GaussNoiseOp(Operator):
    std_max: Annotated[float, Field(ge=0.01, le=0.5)] = 0.1  # of the full range, from 0.01
    exact: bool = False  # fresh numbers per pixel from albumentations, not a window of a table


class BlurOp(Operator):
    kernel_max_px: KernelPx = 7


class GaussianBlurOp(Operator):
    sigma_max_px: Annotated[float, Field(ge=0.5, le=20.0)] = 2.0


class MedianBlurOp(Operator):
    kernel_max_px: KernelPx = 7


Hidden = Literal["ignore", "keep"]  # what the label says where the image was cut out


class CoarseDropoutOp(Operator):
    holes_max: Annotated[int, Field(ge=1, le=64)] = 8
    side_max: Annotated[float, Field(gt=0.02, le=0.9)] = 0.15  # shares of the sides, from 0.02
    label: Hidden = "ignore"


class GridDropoutOp(Operator):
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3  # a hole's side as a share of its cell's
    cell_px: Annotated[int, Field(ge=8, le=512)] = 64
    label: Hidden = "ignore"


class Geometric(Group):
    ShiftScaleRotate: ShiftScaleRotateOp | None = None
    Affine: AffineOp | None = None
    Perspective: PerspectiveOp | None = None


class Elastic(Group):
    ElasticTransform: ElasticTransformOp | None = None
    Perspective: PerspectiveOp | None = None
    PiecewiseAffine: PiecewiseAffineOp | None = None


class Channels(Group):
    RGBShift: RGBShiftOp | None = None
    ChannelShuffle: ChannelShuffleOp | None = None


class Colour(Group):
    PhotoMetricDistortion: PhotoMetricDistortionOp | None = None
    RandomBrightnessContrast: RandomBrightnessContrastOp | None = None
    HueSaturationValue: HueSaturationValueOp | None = None
    CLAHE: CLAHEOp | None = None
    channels: Channels = Channels()  # beside the group's `p` and `one_of`: a block of its own


class Noise(Group):
    GaussNoise: GaussNoiseOp | None = None


class Blurs(Group):
    Blur: BlurOp | None = None
    GaussianBlur: GaussianBlurOp | None = None
    MedianBlur: MedianBlurOp | None = None


class Cutout(Group):
    CoarseDropout: CoarseDropoutOp | None = None
    GridDropout: GridDropoutOp | None = None


class NoPolicy(Config):
    name: Literal["none"] = "none"


class TrivialAugment(Config):
    """Mueller & Hutter 2021: one operator, of a random strength; only operators that keep labels valid."""

    name: Literal["trivial_augment"] = "trivial_augment"
    p: Probability = 1.0


class RandAugment(Config):
    """Cubuk et al. 2020: `num_ops` operators, all of one strength; only those that keep labels valid."""

    name: Literal["rand_augment"] = "rand_augment"
    p: Probability = 1.0
    num_ops: Annotated[int, Field(ge=1, le=6)] = 2
    magnitude: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # of the operators' full ranges


Policy = Annotated[NoPolicy | TrivialAugment | RandAugment, Field(discriminator="name")]


class Mixed(Config):
    """An image made from several. Source images are drawn with weight max over their classes c of f_c ** -rare, f_c
    the share of the training images that show c: 0 draws all alike, 1 makes up for rarity (Gupta et al. 2019)."""

    p: Probability = 0.5
    rare_class_weight: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0


class Mosaic(Mixed):
    """Four images around a point (Bochkovskiy et al. 2020)."""

    centre_min: Annotated[float, Field(ge=0.1, le=0.5)] = 0.25  # how near the point may come to the rim


class CutMix(Mixed):
    """A rectangle of another image (Yun et al. 2019)."""

    alpha: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0  # the share kept is drawn from Beta(alpha, alpha)


class ClassMix(Mixed):
    """Half of the classes that another image shows, cut out along their borders (Olsson et al. 2021)."""


class CopyPaste(Mixed):
    """Objects of other images (Ghiasi et al. 2021). Here `rare_class_weight` r draws class c with n_c ** (1 - r), n_c
    its objects: 0 draws all objects alike, 1 all classes alike, 2 rare classes first."""

    rare_class_weight: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    objects_max: Annotated[int, Field(ge=1, le=32)] = 3
    scale_min: Annotated[float, Field(gt=0.0, le=4.0)] = 0.5
    scale_max: Annotated[float, Field(gt=0.0, le=4.0)] = 1.5
    soft_edge_px: Annotated[float, Field(ge=0.0, le=8.0)] = 1.0  # std of the blur of the image's, not the label's, rim
    share_max: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25  # no object that covers more of its image

    @model_validator(mode="after")
    def _scales(self) -> CopyPaste:
        if self.scale_min > self.scale_max:
            raise ValueError(
                f"scale_min must not exceed scale_max, got {self.scale_min} and {self.scale_max}; swap them"
            )
        return self
