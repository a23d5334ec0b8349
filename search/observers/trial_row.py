"""The record of one trial, and the interface of the observers that are told of it.

Observers know nothing of Ray; trackers and the progress display are observers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from search.observers.search_info import Outcome

STATES = {TrialState.COMPLETE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.FAIL: "FAIL"}


@dataclass
class TrialRow:
    """One trial as the tables show it. `state` is RUNNING, COMPLETE, PRUNED, FAIL or DIVERGED."""

    trial: str  # its folder's name
    number: int  # in the study
    state: str
    recipe_hash: str
    family: str
    backbone: str
    head: str
    epochs: int = 0
    best_miou: float | None = None
    best_epoch: int | None = None
    iou: list[float | None] = field(default_factory=list)  # (K,) of the best epoch
    device: str = "cpu"  # what `device_s` counts
    device_s: float = 0.0  # GPU-seconds, or CPU-seconds where a trial holds no GPU
    error: str | None = None
    params_m: float | None = None  # millions
    memory_gb: float | None = None  # GiB that a training step takes of a device, as estimated beforehand
    peak_gb: float | None = None  # GiB that it took
    accumulate: int | None = None  # micro-batches a batch was split in
    grad_checkpointing: bool = False
    checkpoint: str | None = None  # folder of the last one; its best.safetensors is the best epoch's
    params: dict[str, Any] = field(default_factory=dict)  # as suggested, flat
    recipe: dict[str, Any] = field(default_factory=dict)


PROGRESS = ("epochs", "best_miou", "best_epoch", "iou", "device", "device_s", "error", "peak_gb", "accumulate")


class Observer:
    """What is told of a search. `rows` is the live table: number -> row."""

    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        """Before the first trial of this session; `rows` holds earlier sessions' trials."""

    def trial_started(self, row: TrialRow) -> None:
        """A trial starts or goes on."""

    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        """A trial reported an epoch."""

    def trial_ended(self, row: TrialRow) -> None:
        """A trial has its final state."""

    def tick(self) -> None:
        """Several times a second."""

    def end(self) -> None:
        """After the last trial, or when the search is interrupted."""

    def finished(self, outcome: Outcome) -> None:
        """The run has a verdict. Told between a `begin` and an `end` of its own, after the last stage, and again each
        time that a finished run is resumed."""


def trial_name(number: int) -> str:
    return f"{number:05d}"


def row_of(frozen: FrozenTrial, study_attrs: Mapping[str, Any], root: Path) -> TrialRow:
    """The row of one trial in the study; paths there are relative to `root`, the run's directory."""
    attrs = frozen.user_attrs
    identity, progress = attrs["identity"], attrs.get("progress", {})
    train = identity["recipe"].get("train", {})
    row = TrialRow(
        trial=trial_name(frozen.number),
        number=frozen.number,
        state=STATES.get(frozen.state, "RUNNING"),
        recipe_hash=identity["hash"],
        family=identity["family"],
        backbone=identity["recipe"]["backbone"]["name"],
        head=identity["recipe"]["head"]["name"],
        checkpoint=str(checkpoint_path(root, attrs["checkpoint"]["path"])) if "checkpoint" in attrs else None,
        params=dict(frozen.params),
        recipe=identity["recipe"],
        grad_checkpointing=train.get("grad_checkpointing", False),
        **({"accumulate": train.get("accumulate")} if "accumulate" not in progress else {}),
        **attrs.get("footprint", {}),
        **{key: progress[key] for key in PROGRESS if key in progress},
    )
    if row.state == "FAIL":
        row.error = study_attrs.get(f"error/{frozen.number}") or row.error
        row.state = "DIVERGED" if progress.get("diverged") else "FAIL"
    return row


def checkpoint_path(root: Path, stored: str) -> Path:
    """Where a checkpoint that the study names lies. Earlier versions stored absolute paths, which hold until a run is
    moved."""
    path = root / stored
    if Path(stored).is_absolute() and not path.exists():
        return root.joinpath("tune", *Path(stored).parts[-3:])  # session, trial, checkpoint
    return path


def study_rows(study: optuna.Study, root: Path) -> list[TrialRow]:
    """Every trial of the study of the run in `root`, by number. Raises ValueError where its records are broken."""
    number: int | None = None
    try:
        attrs, rows = study.user_attrs, []
        for frozen in study.get_trials(deepcopy=False):
            number = frozen.number
            if "identity" in frozen.user_attrs:
                rows.append(row_of(frozen, attrs, root))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        where = "" if number is None else f", trial {number}"
        raise ValueError(
            f"the study of {root} must hold this program's own records, got others{where} ({type(error).__name__}: "
            f"{error}); restore study.db or start a new run"
        ) from error
    return rows


def finite(value: Any) -> Any:
    """NaN and infinities as None, in lists and mappings too: JSON has none of them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
