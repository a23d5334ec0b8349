"""Opens a finished run for a command that works on it: its space, data and split, as its stages had them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from analysis.ensembling.result import EnsembleResult
from search.run_dir import RunDir, read_json
from search.run_record import read_record
from search.space.space import load_space
from search.stages import run_data
from search.stages.folds import judged_split
from search.stages.stage import Context, Stage
from trainables.command import run_command
from trainables.data.index import Split
from trainables.files import write_text
from trainables.plain_json import read_object
from trainables.recipe.config import Config
from trainables.recipe.recipe import Recipe

MIXING = ("mosaic", "cutmix", "classmix", "copy_paste")
OPTIONS = "options.json"
REMEDY = "restore the files, or start a new run"


class _Data(BaseModel):
    """The part of data.json that says on which images a run worked."""

    card: Path
    fingerprint: str
    split_fingerprint: str
    notes: tuple[str, ...] = ()
    train: tuple[str, ...]
    val: tuple[str, ...]
    holdout: tuple[str, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A run whose ensemble stage is done."""

    context: Context
    ensemble: EnsembleResult

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The images that the card has without labels."""
        return self.context.data.index.ids("unlabelled")


def open_for_student(
    run: RunDir,
    options: Config,
    out: Path,
    *,
    cache_root: Path,
    say: Callable[[str], None],
    now: Callable[[], datetime],
) -> FinishedRun:
    """`open_finished`, once the run has a verdict and a student of these options may lie in `out`."""
    check_judged(run)
    check_target(out, options)
    return open_finished(run, cache_root, say=say, now=now)


def open_finished(
    run: RunDir, cache_root: Path, *, say: Callable[[str], None], now: Callable[[], datetime]
) -> FinishedRun:
    """Raises ValueError where the card's data are others by now, or a file of the run is broken."""
    ensemble = EnsembleResult.read(run.ensemble_json)
    return FinishedRun(open_begun(run, cache_root, say=say, now=now), ensemble)


def open_begun(run: RunDir, cache_root: Path, *, say: Callable[[str], None], now: Callable[[], datetime]) -> Context:
    """As `open_finished`, of a run that has trials, whatever it came to."""
    described = _read_data(run)
    space = load_space(str(run.space_yaml), profile=None, overrides=())
    index, cache = run_data.read_data(described.card, cache_root, say)
    if index.fingerprint != described.fingerprint:
        raise ValueError(
            f"the data of the run must be those that it began with ({described.fingerprint}), got "
            f"{index.fingerprint} from {described.card}; {REMEDY}"
        )
    split = Split(described.train, described.val, described.holdout, described.split_fingerprint, described.notes)
    known = {image.image_id for image in index.images}
    strange = sorted({*split.train_ids, *split.val_ids, *split.holdout_ids} - known)
    if strange:
        raise ValueError(f"{run.data_json} must list images of the data, got {', '.join(strange[:3])}; {REMEDY}")
    return Context(run, space, run_data.Data(index, split, cache, cache_root), say, now)


def _read_data(run: RunDir) -> _Data:
    try:
        return _Data.model_validate(read_json(run.data_json))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{run.data_json} must describe the run's data, got {where}: {first['msg']}; {REMEDY}"
        ) from None


def check_judged(run: RunDir) -> None:
    """Raises ValueError where the run has no verdict yet."""
    if not read_record(run)["stages"].get(Stage.ensemble):
        raise ValueError(
            f"a student learns from a run whose ensemble stage is done, got {run.root} without it; finish it first: "
            f"{run_command('--resume', run.root)}"
        )


def recipe_of(weights: Path) -> Recipe:
    """The recipe in the JSON file that describes a file of weights. Raises ValueError where it does not."""
    path = weights.with_suffix(".json")
    found = read_object(path, REMEDY)
    try:
        return Recipe.model_validate(found["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold the recipe of {weights.name}, got none ({error}); {REMEDY}") from error


def without_mixing(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe without the operators that mix images, and what was turned off."""
    aug = recipe.augmentation
    mixed = [name for name in MIXING if getattr(aug, name) is not None and getattr(aug, name).p > 0]
    plain = recipe.augmentation.model_copy(update=dict.fromkeys(mixed))
    said = tuple(f"augmentation.{name} off: a mixed image has no soft labels" for name in mixed)
    return recipe.model_copy(update={"augmentation": plain}), said


def with_epochs(recipe: Recipe, epochs: int | None) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with this number of epochs (None: its own), and what that changes."""
    if epochs in (None, recipe.train.num_epochs):
        return recipe, ()
    train = recipe.train.model_copy(update={"num_epochs": epochs})
    said = f"{epochs} epochs instead of {recipe.train.num_epochs}"
    return recipe.model_copy(update={"train": train}), (said,)


def check_target(out: Path, options: Config) -> None:
    """Raises ValueError where `out` is no new folder, and no student of these options either."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = type(options).model_validate_json((out / OPTIONS).read_bytes())
    except (OSError, ValueError):
        raise ValueError(
            f"a student needs a new folder, or one in which it was begun, got {out}, which holds something else; "
            "choose another with --out"
        ) from None
    wanted, there = options.model_dump(), found.model_dump()
    other = [f"{key} {there[key]!r} and not {wanted[key]!r}" for key in wanted if there[key] != wanted[key]]
    if other:
        raise ValueError(
            f"a student's folder must hold a student of the same options, got {out} with {', '.join(other)}; choose "
            "another with --out, or delete it"
        )


def write_options(out: Path, options: Config) -> None:
    """Write down what a student in `out` was asked, before anything else."""
    write_text(out / OPTIONS, options.model_dump_json(indent=1) + "\n")


def student_split(context: Context) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labelled images that a student trains on and those that it is validated on: a trial's; with folds, all
    outside the hold-out and none, as a refit's."""
    split = context.data.split
    if context.space.options.folds.num:
        return judged_split(context).val_ids, ()
    return split.train_ids, split.val_ids
