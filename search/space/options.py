"""The options of a space besides the recipe: search, ensemble, folds, pseudo labels, views, split, resources. None is
searched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.pseudo_options import Pseudo
from trainables.logits.view_name import TILE_PX, tile_fault
from trainables.recipe.config import Config

Flip = Literal["none", "horizontal", "vertical"]
Turn = Literal[0, 90, 180, 270]
Tracker = Literal["wandb", "mlflow", "tensorboard", "jsonl"]  # events.jsonl is always written
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class Search(Config):
    """How many trials, for how long, and when ASHA may stop one."""

    num_trials: Annotated[int, Field(ge=1)] = 20
    max_epochs: Annotated[int, Field(ge=1)] = 60  # becomes Recipe.train.num_epochs
    grace_epochs: Annotated[int, Field(ge=1)] = 6  # no trial is stopped earlier
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    max_concurrent: Annotated[int, Field(ge=1)] | None = None  # None: as many as the cluster holds
    max_failures: Annotated[int, Field(ge=0)] = 2  # restarts from the last checkpoint after a lost node
    noise_repeats: Annotated[int, Field(ge=0)] = 0  # of the best recipe under other seeds, for a noise floor; 0: off
    trial_timeout_s: Annotated[float, Field(gt=0.0)] | None = None  # without an epoch's end it is killed and restarted
    budget_device_hours: Annotated[float, Field(gt=0.0)] | None = None  # then no trial is added; others end as usual
    until_hours: Annotated[float, Field(gt=0.0)] | None = None  # of the search's sessions; then no trial is added
    sampler_window: Annotated[int, Field(ge=100)] = 1000  # ended trials that TPE learns from: the best and the newest
    until_miou: Annotated[float, Field(gt=0.0, le=1.0)] | None = None  # a trial's on val; then no trial is added
    study: Literal["auto", "sqlite", "journal"] = "auto"  # its file; auto: a journal on a disk that machines share

    @property
    def expected_epochs(self) -> float:
        """Of a trial, where 1 / reduction_factor of the trials go on at each rung (Li et al. 2020, section 3). Ray's
        ASHA stops later than that, since the first trials have nobody to be compared with."""
        total, share, epoch, before = 0.0, 1.0, self.grace_epochs, 0
        while epoch < self.max_epochs:
            total += share * (epoch - before)
            share, before, epoch = share / self.reduction_factor, epoch, epoch * self.reduction_factor
        return total + share * (self.max_epochs - before)

    @property
    def is_limited(self) -> bool:
        """Whether something else than the number of trials may end the search."""
        return (self.budget_device_hours, self.until_hours, self.until_miou) != (None, None, None)

    @field_validator("noise_repeats")
    @classmethod
    def _none_or_several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (off) or at least 2, got 1: a spread needs two scores; use 3")
        return value

    @model_validator(mode="after")
    def _grace_within(self) -> Search:
        if self.grace_epochs > self.max_epochs:
            raise ValueError(
                f"grace_epochs must not exceed max_epochs, got {self.grace_epochs} and {self.max_epochs}; "
                f"use 1 to {self.max_epochs}"
            )
        return self


class Ensemble(EnsembleOptions):
    """Which trials are candidates, and how the rules are fitted and judged."""

    candidates: Annotated[int, Field(ge=1)] = 6
    max_per_family: Annotated[int, Field(ge=1)] = 3
    soups: Literal["off", "epochs", "all"] = "all"  # means of weights: of a trial's epochs; also of trials
    soup_epochs: Annotated[int, Field(ge=1)] = 3  # last epochs of a trial whose weights are kept for them
    logits: Literal["float16", "uint8"] = "float16"  # how candidates' logits are kept; 8 bits take half the space
    max_logit_error: Annotated[float, Field(ge=0.0)] = 0.001  # mIoU that 8 bits may change on val, else float16
    logits_gb: Annotated[float, Field(gt=0.0)] | None = None  # GiB that all logits may take; None: what is free


class Folds(Config):
    """The best recipes, trained once per fold of all labelled images outside the hold-out. Rules are then fitted on the
    logits of every such image, by models that never saw it; a candidate is the mean of a recipe's fold models."""

    num: Annotated[int, Field(ge=0)] = 0  # 0: off; fewer where there are fewer groups
    recipes: Annotated[int, Field(ge=1)] = 3  # at most ensemble.max_per_family of one backbone family
    refit: bool = True  # train each recipe once more, on all of these images
    ship: Literal["mean", "refit"] = "mean"  # of a recipe: the mean of its fold models, or its refit; both are judged

    @field_validator("num")
    @classmethod
    def _none_or_two(cls, value: int) -> int:
        if value == 1:
            raise ValueError("folds are none or at least two, got 1; use 0 to turn them off, or 2 or more")
        return value

    @model_validator(mode="after")
    def _ships_what_is_trained(self) -> Folds:
        if self.ship == "refit" and not self.refit:
            raise ValueError("ship: refit needs the refits, got refit: false; set refit to true, or ship to mean")
        return self


class Tta(Config):
    """The test-time views that are offered: every scale with every tile, turn and flip."""

    scales: Annotated[tuple[Annotated[float, Field(ge=0.25, le=4.0)], ...], Field(min_length=1)] = (1.0,)
    flips: Annotated[tuple[Flip, ...], Field(min_length=1)] = ("none",)
    turns: Annotated[tuple[Turn, ...], Field(min_length=1)] = (0,)  # degrees; more than 0 where the data card has turns

    tiles_px: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)  # 0: the whole image
    overlaps: Annotated[tuple[float, ...], Field(min_length=1)] = (0.25,)  # share of a tile that its neighbour sees too

    @field_validator("scales", "flips", "turns", "tiles_px", "overlaps")
    @classmethod
    def _each_once(cls, values: tuple[float | str, ...]) -> tuple[float | str, ...]:
        # a view's name carries its scale with two decimals
        shown = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
        twice = sorted({text for text in shown if shown.count(text) > 1})
        if twice:
            raise ValueError(f"must not hold a value twice, got {', '.join(twice)} again; remove the repeats")
        return values

    @field_validator("tiles_px")
    @classmethod
    def _tiles(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        for px in sides:
            if px and (fault := tile_fault(px, 0.0)):
                raise ValueError(fault)
        return sides

    @field_validator("overlaps")
    @classmethod
    def _overlaps(cls, overlaps: tuple[float, ...]) -> tuple[float, ...]:
        for overlap in overlaps:
            if fault := tile_fault(TILE_PX[0], overlap):
                raise ValueError(fault)
        return overlaps


class LargeResources(Config):
    """What a trial holds if its network has more parameters."""

    over_params_m: Annotated[float, Field(gt=0.0)]  # millions
    gpu: Annotated[int, Field(ge=1)]
    cpu: Annotated[int, Field(ge=1)]


class Resources(Config):
    """What one trial holds while it runs. Below 1, trials share a GPU; above, each trains on a share of the batch."""

    gpu: Annotated[float, Field(ge=0.0)] = 0.0
    cpu: Annotated[float, Field(gt=0.0)] = 1.0
    large: LargeResources | None = None
    memory_gb: Annotated[float, Field(gt=0.0)] | None = None  # GiB of one device; None: the cluster's GPUs are asked

    @field_validator("gpu", "cpu")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError(f"must be whole above 1, got {value}; use {int(value)} or {int(value) + 1}")
        return value


class SplitShares(Config):
    """The parts that are carved from `train` where the data card gives no file for them, or a file that names them."""

    val_share: Share = 0.2
    holdout_share: Share = 0.2
    file: str | None = None  # written by analysis/split.py; it then decides alone; relative to the current folder
    fold: Annotated[int, Field(ge=0)] | None = None  # of that file: this fold tunes, the others train

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitShares:
        if self.val_share + self.holdout_share >= 1:
            raise ValueError(
                f"val_share and holdout_share must leave something to train on, got {self.val_share} and "
                f"{self.holdout_share}; keep their sum under 1"
            )
        return self

    @model_validator(mode="after")
    def _fold_of_a_file(self) -> SplitShares:
        if self.fold is not None and self.file is None:
            raise ValueError(f"fold {self.fold} needs a file that has folds; set split.file as well")
        return self


class Options(Config):
    """Everything in a space that is not the recipe."""

    search: Search = Search()
    ensemble: Ensemble = Ensemble()
    folds: Folds = Folds()
    pseudo: Pseudo | None = None  # None: off
    tta: Tta = Tta()
    resources: Resources = Resources()
    split: SplitShares = SplitShares()
    trackers: tuple[Tracker, ...] = ()
    licences: Literal["any", "commercial"] = "any"  # of pretrained weights: commercial leaves out those that forbid it
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
