"""Decides, for every recipe before it is placed, whether its trial may run and which resources it gets.

Runs on the machine that drives the search; the network is built without memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch._subclasses.fake_tensor import DataDependentOutputException, UnsupportedOperatorException

from search.space.options import Options, Resources
from trainables.data.augment.pipeline import view_size
from trainables.recipe.recipe import Recipe
from trainables.training.batch import check_batch
from trainables.training.memory_estimate import check_kept, check_views, footprint, num_params

GIB = 2**30
MAX_SIZES = 6  # that are tried of a data set with more, from the smallest to the largest


@dataclass(frozen=True)
class Admission:
    """`memory_gb` (GiB) is for the recipe's own micro-batch on one device, None where it cannot be estimated."""

    params_m: float | None = None
    memory_gb: float | None = None
    refusal: str | None = None


class AdmissionPolicy(Protocol):
    """Decides for each recipe whether it may be placed, and with which resources."""

    def admit(self, recipe: Recipe) -> Admission:
        """Asked once per new recipe; one with a `refusal` fails with that reason, unplaced."""
        ...

    def resources_of(self, recipe: Recipe) -> Mapping[str, float]:
        """{"cpu": ..., "gpu": ...} that a trial of the recipe holds."""
        ...


@dataclass(frozen=True)
class AdmissionCheck:
    """The admission policy of a run: networks are built without memory and compared with the device's.

    `device_gb` is the memory of the largest device, None where it is unknown.
    """

    options: Options
    num_classes: int
    num_train: int  # images to train on
    image_sizes: tuple[tuple[int, int], ...]  # (height, width)
    device_gb: float | None

    def admit(self, recipe: Recipe) -> Admission:
        """Build the network without memory and try its crop and every view. Takes seconds for a large one."""
        gpus = self.resources_of(recipe)["gpu"]
        try:
            check_batch(recipe.train, self.num_train, max(1, int(gpus)))
            params = num_params(recipe, self.num_classes)
            check_views(recipe, self.num_classes, self.views_px(recipe))
            check_kept(recipe, self.num_classes, self.num_train)
            found = footprint(recipe, self.num_classes, low_precision=gpus > 0)
        except ValueError as error:
            return Admission(refusal=f"refused before it took a device: {error}")
        except (DataDependentOutputException, UnsupportedOperatorException):
            return Admission(params_m=params / 1e6)  # the network's shapes depend on values: only a device will tell
        train = recipe.train
        micro_batch = max(1, train.batch_size // (train.accumulate * max(1, int(gpus))))
        estimate = Admission(round(params / 1e6, 2), round(found.bytes(micro_batch) / GIB, 3))
        have_gb = None if self.device_gb is None else self.device_gb * (gpus if 0 < gpus < 1 else 1.0)
        if have_gb is None or found.bytes(1) <= have_gb * GIB:
            return estimate
        return Admission(
            estimate.params_m, estimate.memory_gb, _too_large(recipe, found.bytes(1) / GIB, have_gb, params)
        )

    def views_px(self, recipe: Recipe) -> list[tuple[int, int]]:
        """The sizes (height, width) at which images will be predicted, at every scale of `tta`."""
        short_px = recipe.augmentation.short_px
        scales = {1.0, *self.options.tta.scales}
        return sorted({view_size(h, w, short_px, scale) for h, w in self.image_sizes for scale in scales})

    def resources_of(self, recipe: Recipe) -> dict[str, float]:
        """The resources of a trial: those of `resources.large` where its network is large enough."""
        return resources_of(self.options.resources, recipe, self.num_classes)


def resources_of(resources: Resources, recipe: Recipe, num_classes: int) -> dict[str, float]:
    """{"gpu": ..., "cpu": ...} of a trial. A recipe that cannot be built, and will be refused, counts as small."""
    large = resources.large
    if large is not None:
        with contextlib.suppress(ValueError):
            if num_params(recipe, num_classes) > large.over_params_m * 1e6:
                return {"gpu": float(large.gpu), "cpu": float(large.cpu)}
    return {"gpu": resources.gpu, "cpu": resources.cpu}


def _too_large(recipe: Recipe, needed_gb: float, have_gb: float, params: int) -> str:
    also = "" if recipe.train.grad_checkpointing else ", or set train.grad_checkpointing"
    return (
        f"refused before it took a device: {recipe.head.name} over {recipe.backbone.name} ({params / 1e6:.1f} M "
        f"parameters) needs about {needed_gb:.2f} GiB for one image of {recipe.augmentation.crop_px} px and its "
        f"optimiser, and the device has {have_gb:.2f} GiB; use a smaller backbone or crop_px{also}"
    )


def some_sizes(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """At most MAX_SIZES of the distinct sizes, evenly from the smallest area to the largest, both included."""
    distinct = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    last, count = len(distinct) - 1, min(MAX_SIZES, len(distinct))
    return tuple(distinct[round(i * last / max(1, count - 1))] for i in range(count))
