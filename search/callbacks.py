"""What Ray says, as rows: trials.csv and the observers of a running search.

Enters: Ray Tune's callback calls. Leaves: one `TrialRow` a trial, kept in the study too, and handed to every
`Observer`. Observers know nothing of Ray; trackers and the live table are observers. No Ray class is subclassed
outside this module, `asha` and `searcher`, and what Ray pickles of them is empty.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.search import Searcher
from typing_extensions import override

from search.asha import is_broken
from search.searcher import FamilySearch

ERROR_LINES = 6
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


def trial_name(number: int) -> str:
    return f"{number:05d}"


def row_of(frozen: FrozenTrial, study_attrs: Mapping[str, Any]) -> TrialRow:
    """The row of one trial in the study."""
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
        checkpoint=attrs.get("checkpoint", {}).get("path"),
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


def study_rows(study: optuna.Study) -> list[TrialRow]:
    """Every trial of the study, by number."""
    attrs = study.user_attrs
    return [row_of(frozen, attrs) for frozen in study.get_trials(deepcopy=False) if "identity" in frozen.user_attrs]


def finite(value: Any) -> Any:
    """NaN and infinities as None, in lists and mappings too: JSON has none of them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class TrialTable(tune.Callback):
    """The one Ray callback: keeps rows, writes them to the study, tells the observers.

    An actor's next trial that Ray dropped is given back to the searcher through `limiter`.
    An observer's exception ends the search and is kept in `failure`, since Ray passes on only its text.
    """

    def __init__(self, search: FamilySearch, limiter: Searcher, observers: Sequence[Observer], metric: str) -> None:
        self.search, self.limiter, self.observers, self.metric = search, limiter, observers, metric
        self.rows: dict[int, TrialRow] = {row.number: row for row in study_rows(search.study)}
        self.failure: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles its callbacks into tuner.pkl, which is never read, and observers may hold a terminal."""
        return {}

    def tell(self, method: str, *args: Any) -> None:
        """Calls one method of every observer."""
        try:
            for observer in self.observers:
                getattr(observer, method)(*args)
        except Exception as error:
            self.failure = error
            raise

    @override
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for trial in trials:
            # an actor that could not be reset in time: Ray marks the next trial ERROR and tells nobody
            if trial.status == "ERROR" and self.search.is_live(trial.trial_id):
                self.limiter.on_trial_complete(trial.trial_id)
        self.take_refused()
        self.tell("tick")

    def take_refused(self) -> None:
        """Rows of the trials that failed before Ray heard of them."""
        while self.search.refused:
            number = self.search.refused.popleft()
            frozen = self.search.study.get_trials(deepcopy=False)[number]
            row = self.rows[number] = row_of(frozen, self.search.study.user_attrs)
            self.tell("trial_started", row)
            self.tell("trial_ended", row)

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if number not in self.rows:
            self.rows[number] = row_of(self.search.frozen(number), {})
        self.rows[number].device, _ = share_of(trial)
        self.tell("trial_started", self.rows[number])

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        row = self.rows[trial.config["number"]]
        self._update(row, result, seconds=result.get("time_this_iter_s", 0.0) * share_of(trial)[1])
        if not is_broken(result, self.metric):
            self.tell("epoch", row, result)  # a broken report's numbers stand for nothing; `trial_ended` says why

    def _update(self, row: TrialRow, result: Mapping[str, Any], seconds: float) -> None:
        row.device_s += seconds
        row.epochs = max(row.epochs, int(result.get("epoch", 0)))
        row.accumulate = int(result.get("accumulate") or 0) or row.accumulate
        row.peak_gb = result.get("peak_gb", row.peak_gb)
        diverged = False
        if is_broken(result, self.metric):
            diverged = self.metric in result and not result.get("failed")
            missing = f"{self.metric} is not finite" if diverged else f"an epoch was reported without {self.metric}"
            row.error = str(result.get("failed") or result.get("error") or missing)
        elif row.best_miou is None or result[self.metric] > row.best_miou:
            row.best_miou, row.best_epoch = float(result[self.metric]), int(result["epoch"])
            row.iou = finite(list(result.get("val/iou", [])))
        self.search.note(row.number, "progress", {key: getattr(row, key) for key in PROGRESS} | {"diverged": diverged})

    @override
    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """Runs before Ray deletes the trial's earlier checkpoint, so the study always names one that exists."""
        row = self.rows[trial.config["number"]]
        row.checkpoint = str(checkpoint.path)
        self.search.note(row.number, "checkpoint", {"path": row.checkpoint, "epoch": row.epochs})
        folder = Path(row.checkpoint).parent  # <tune>/<session>/<trial>
        for old in folder.parent.parent.glob(f"*/{folder.name}/checkpoint_*"):
            if old.parent != folder:  # of an earlier session: Ray does not know them
                shutil.rmtree(old, ignore_errors=True)

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, error=None)

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, error=error_tail(trial))

    def _end(self, trial: Any, error: str | None) -> None:
        row = self.rows.get(trial.config["number"])
        if row is None or row.number not in self.search.outcomes:
            return  # stopped before it started: it waits for the next session
        row.state = self.search.outcomes[row.number]
        if row.state == "FAIL":
            row.error = error or row.error or "the trial ended without reporting an epoch"
            self.search.study.set_user_attr(f"error/{row.number}", row.error)
        self.tell("trial_ended", row)


def share_of(trial: Any) -> tuple[str, float]:
    """('gpu', how many) or ('cpu', how many) of what a trial holds."""
    resources = trial.placement_group_factory.required_resources
    gpus = float(resources.get("GPU", 0.0))
    return ("gpu", gpus) if gpus else ("cpu", float(resources.get("CPU", 1.0)))


def error_tail(trial: Any) -> str:
    """The last lines of a failed trial's error: what was raised, without Ray's frames."""
    path = Path(trial.error_file or "")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "no error file was written"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-ERROR_LINES:])


class CsvTable(Observer):
    """trials.csv, rewritten whole or not at all; at most once in `every_s` between trial ends."""

    def __init__(self, path: Path, *, classes: Sequence[str], clock: Callable[[], float], every_s: float = 2.0) -> None:
        self.path, self.classes, self.clock, self.every_s = path, list(classes), clock, every_s
        self.rows: Mapping[int, TrialRow] = {}
        self.written_s = -math.inf

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        self.rows = rows
        self.write()

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        if self.clock() - self.written_s >= self.every_s:
            self.write()

    @override
    def trial_started(self, row: TrialRow) -> None:
        self.write()

    @override
    def trial_ended(self, row: TrialRow) -> None:
        self.write()

    @override
    def end(self) -> None:
        self.write()

    def write(self) -> None:
        self.written_s = self.clock()
        write_csv(self.path, [self.rows[number] for number in sorted(self.rows)], self.classes)


def write_csv(path: Path, rows: Sequence[TrialRow], classes: Sequence[str]) -> None:
    """One line a trial: the row's fields, `iou/<class>`, then `param/<name>` of every trial's parameters."""
    plain = [item.name for item in fields(TrialRow) if item.name not in ("iou", "params", "recipe")]
    names = sorted({name for row in rows for name in row.params})
    header = [*plain, *(f"iou/{name}" for name in classes), *(f"param/{name}" for name in names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        line = {key: value for key, value in asdict(row).items() if key in plain and value is not None}
        line |= {f"iou/{name}": iou for name, iou in zip(classes, row.iou, strict=False) if iou is not None}
        writer.writerow(line | {f"param/{name}": value for name, value in row.params.items()})
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8")
    temporary.replace(path)
