"""A row per trial, or per run, from the files that runs leave: no study is opened, no cluster joined."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from analysis.ensembling.result import EnsembleResult, Score
from analysis.submission import read_ledger
from search.run_dir import RunDir
from search.run_record import read_record
from search.space.yaml_format import parse_yaml
from search.stages.stage import Stage
from trainables.bounded_yaml import read_bounded
from trainables.csv_cells import unescaped
from trainables.recipe.config import Config

MAX_CELL = 2**20  # characters of a cell of trials.csv
SIZES = ("crop_px", "short_px", "scale_min", "scale_max")  # of the augmentation section: the task's, not augmentation
SEARCHED = ("choice", "float", "int", "log")  # keys of a value that is searched
PARAM = "param/augmentation/"


class Row(Config):
    """A line of the table. None: not known, or not measured; mIoU in [0, 1]; hours of devices, trials alone."""

    run: str
    trial: str | None = None
    space: str = ""
    started: str = ""
    family: str = ""
    backbone: str = ""
    head: str = ""
    augmentation: str = ""  # what is fixed in the space, then what the trial drew
    rule: str | None = None  # what the verdict ships
    state: str = ""  # of the trial; of a run the last stage that is done
    trials: int | None = None
    epochs: int | None = None
    val: float | None = None  # of the search: the trial's best epoch, the run's best trial
    out_of_fold: float | None = None  # of the recipe's fold models together, each on the images that it never saw
    crossfit: float | None = None  # of the shipped rule, on images that its fit left out
    holdout: float | None = None
    holdout_low: float | None = None
    holdout_high: float | None = None
    public: float | None = None  # of the last submission in the ledger
    private: float | None = None
    gpu_hours: float | None = None
    cpu_hours: float | None = None
    commit: str = ""  # with a + where the checkout was changed


class _Trial(Config):
    """What is read of a line of trials.csv."""

    trial: str
    state: str
    family: str
    backbone: str
    head: str
    epochs: int
    best_miou: float | None
    device: str
    device_s: float


@dataclass(frozen=True)
class RunFiles:
    """A run as its files have it."""

    name: str
    record: Mapping[str, Any]
    trials: Sequence[tuple[_Trial, str]]  # each with its augmentation
    ensemble: EnsembleResult | None
    submission: Mapping[str, Any] | None  # the last one

    @property
    def unfinished(self) -> str:
        """What is not there yet, in words; '' for a run that came to its verdict."""
        if not self.trials:
            return "it has no trials yet"
        return "" if self.ensemble is not None else "it has no verdict yet"


def read_run(root: Path) -> RunFiles:
    """Read a run's files. Raises ValueError naming one that is broken; what is not there yet is no fault."""
    run = RunDir(root)
    record = read_record(run)
    fixed = _fixed_augmentation(run.space_yaml) if run.space_yaml.is_file() else ""
    trials = _read_trials(run.trials_csv, fixed) if run.trials_csv.is_file() else []
    # before its stage is done the file may be of an earlier attempt
    ensemble = EnsembleResult.read(run.ensemble_json) if Stage.ensemble in record["stages"] else None
    submissions = [line for line in read_ledger(root.parent) if isinstance(line, dict) and line.get("run") == root.name]
    return RunFiles(root.name, record, trials, ensemble, submissions[-1] if submissions else None)


def rows_by_trial(run: RunFiles) -> list[Row]:
    """A row per trial. The hold-out is known of the trial alone that is the best single model: no other was scored."""
    return [_trial_row(run, trial, augmentation) for trial, augmentation in run.trials]


def row_of_run(run: RunFiles) -> Row:
    """One row: the best trial's model, the shipped rule's scores, all trials' hours."""
    scored = [each for each in run.trials if each[0].best_miou is not None]
    best = max(scored, key=lambda each: each[0].best_miou or 0.0, default=None)
    values: dict[str, Any] = {"state": _last_stage(run), "trials": len(run.trials)}
    values |= _hours([trial for trial, _ in run.trials])
    if best is not None:
        trial, augmentation = best
        values |= {"family": trial.family, "backbone": trial.backbone, "head": trial.head, "val": trial.best_miou}
        values |= {"augmentation": augmentation}
    if run.ensemble is not None:
        shipped = run.ensemble.shipped
        values |= {"rule": shipped.name, "crossfit": shipped.val_crossfit.miou, **_holdout(shipped.holdout)}
        if run.ensemble.fitted_on.kind == "out_of_fold":
            values["out_of_fold"] = max(member.val_miou for member in run.ensemble.members)
    if run.submission is not None:
        values |= {key: _score(run.submission.get(key)) for key in ("public", "private")}
    return Row(**_common(run), **values)


def _trial_row(run: RunFiles, trial: _Trial, augmentation: str) -> Row:
    values: dict[str, Any] = {"trial": trial.trial, "augmentation": augmentation, "val": trial.best_miou}
    values |= {key: getattr(trial, key) for key in ("family", "backbone", "head", "state", "epochs")}
    if run.ensemble is not None:
        out_of_fold = run.ensemble.fitted_on.kind == "out_of_fold"
        name = f"folds-{trial.trial}" if out_of_fold else trial.trial
        member = next((one for one in run.ensemble.members if one.trial == name), None)
        if member is not None and out_of_fold:
            values["out_of_fold"] = member.val_miou
        single = next((rule for rule in run.ensemble.rules if rule.name == "best_single"), None)
        if single is not None and [run.ensemble.members[m].trial for m in single.fitted.used] == [name]:
            values |= _holdout(single.holdout)
    return Row(**_common(run), **(values | _hours([trial])))


def _common(run: RunFiles) -> dict[str, Any]:
    git = run.record.get("git")
    commit = f"{git.get('commit', '')!s:.12}{'+' if git.get('changed') else ''}" if isinstance(git, dict) else ""
    return {"run": run.name, "space": run.record.get("space", ""), "started": run.record["started"], "commit": commit}


def _last_stage(run: RunFiles) -> str:
    done = [stage.value for stage in Stage if stage in run.record["stages"]]
    return done[-1] if done else "begun"


def _hours(trials: Sequence[_Trial]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for trial in trials:
        key = "gpu_hours" if trial.device == "gpu" else "cpu_hours"
        totals[key] = totals.get(key, 0.0) + trial.device_s / 3600
    return totals


def _holdout(score: Score) -> dict[str, float | None]:
    return {"holdout": score.miou, "holdout_low": score.low, "holdout_high": score.high}


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _fixed_augmentation(path: Path) -> str:
    """The augmentation that a resolved space fixes, as 'key=value, ...'."""
    try:
        tree = parse_yaml(read_bounded(path), str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a run's resolved space, got {error!s:.300}; restore it") from error
    section = tree.get("augmentation") if isinstance(tree, dict) else None
    found = _flat(section, "") if isinstance(section, dict) else []
    return ", ".join(f"{key}={value}" for key, value in found)


def _flat(section: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in section.items():
        if isinstance(value, dict):
            found += [] if any(kind in value for kind in SEARCHED) else _flat(value, f"{above}{key}.")
        elif value is not None and not (above == "" and key in SIZES):
            found.append((f"{above}{key}", value))
    return found


def _read_trials(path: Path, fixed: str) -> list[tuple[_Trial, str]]:
    """The trials of trials.csv. Raises ValueError where it is not what `trials_csv.write_csv` writes."""
    csv.field_size_limit(MAX_CELL)
    found = []
    try:
        for line in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True):
            cells = {key: unescaped(line[key]) for key in _Trial.model_fields}
            trial = _Trial.model_validate({**cells, "best_miou": cells["best_miou"] or None})
            drawn = [f"{key.removeprefix(PARAM)}={unescaped(line[key])}" for key in line if key.startswith(PARAM)]
            known = [one.replace("/", ".") for one in drawn if not one.endswith("=")]
            found.append((trial, ", ".join([*([fixed] if fixed else []), *known])))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ValueError(
            f"{path} must be the table of a run's trials, got a broken one ({type(error).__name__}: {reason!s:.200}); "
            "resume the run, which writes it again"
        ) from error
    return found
