"""Where a search is told to, besides the terminal: events.jsonl always, W&B on request.

Enters: an observer's calls. Leaves: `events.jsonl`; a W&B run a trial, offline where there is no key.
All W&B runs are written by the driver's one service process: no actor a trial.
"""

from __future__ import annotations

import difflib
import json
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.callbacks import Observer, TrialRow, finite

EVENT_KEYS = ("epoch", "lr", "images_per_s", "diverged", "failed", "time_this_iter_s")


class EventLog(Observer):
    """events.jsonl: one JSON object a line, appended; `at` is the injected clock's reading in seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self.path, self.clock = path, clock

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        if self.path.is_file() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")  # the last writer was killed within a line
        self._append({"event": "search_started", "num_trials": num_trials, "num_known": len(rows)})

    @override
    def trial_started(self, row: TrialRow) -> None:
        self._append({"event": "trial_started", "trial": row.trial, "recipe_hash": row.recipe_hash})

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        kept = {key: value for key, value in metrics.items() if "/" in key or key in EVENT_KEYS}
        self._append({"event": "epoch", "trial": row.trial, "family": row.family, **kept})

    @override
    def trial_ended(self, row: TrialRow) -> None:
        end = {"state": row.state, "epochs": row.epochs, "best_miou": row.best_miou, "error": row.error}
        self._append({"event": "trial_ended", "trial": row.trial, **end})

    @override
    def end(self) -> None:
        self._append({"event": "search_ended"})

    def _append(self, event: Mapping[str, Any]) -> None:
        line = json.dumps({"at": self.clock(), **finite(event)}, ensure_ascii=False, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log. Lines that a kill cut short are left out; any other broken line is an error.

    Raises ValueError naming the line.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            cut_short = not line.rstrip().endswith("}")
            if not cut_short:
                raise ValueError(f"{path}:{position} must be one JSON object a line; remove that line") from error


def wandb_mode(environment: Mapping[str, str], home: Path) -> str:
    """'online' where a key can be found, else 'offline'; `WANDB_MODE` decides where it is set."""
    if environment.get("WANDB_MODE"):
        return environment["WANDB_MODE"]
    if environment.get("WANDB_API_KEY"):
        return "online"
    logins = home / ".netrc"
    if not logins.is_file():
        return "offline"
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return "online" if netrc.netrc(str(logins)).authenticators(host) else "offline"
    except netrc.NetrcParseError:
        return "offline"


class WandbTracker(Observer):
    """One W&B run a trial, grouped by the search. A trial that goes on after a crash keeps its run's id.

    What W&B raises is shown once and ends tracking, never the search.
    """

    def __init__(self, run_dir: Path, *, say: Callable[[str], None] = print) -> None:
        self.run_dir, self.say = run_dir, say
        self.mode = wandb_mode(os.environ, Path.home())
        self.runs: dict[int, Any] = {}
        self.broken = False

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        if self.mode == "offline":
            self.say(
                f"W&B: no key, so runs are kept offline; send them with: wandb sync {self.run_dir}/wandb/offline-*"
            )

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            work()
        except Exception as error:
            self.broken = True
            self.say(f"W&B failed and is off for the rest of this run ({type(error).__name__}: {error})")

    @override
    def trial_started(self, row: TrialRow) -> None:
        self._guarded(lambda: self._start(row))

    def _start(self, row: TrialRow) -> None:
        import wandb

        self.runs[row.number] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "segsearch"),
            group=self.run_dir.name,
            name=f"{self.run_dir.name}-{row.trial}",
            id=f"{self.run_dir.name}-{row.trial}-{row.recipe_hash}",
            resume="allow" if self.mode == "online" else None,
            dir=str(self.run_dir),
            config={**row.recipe, "family": row.family, "recipe_hash": row.recipe_hash},
            tags=[row.family],
            mode=self.mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        scalars = {key: value for key, value in metrics.items() if "/" in key or key in EVENT_KEYS}
        kept = {key: value for key, value in scalars.items() if isinstance(value, (int, float))}
        self._guarded(lambda: self.runs[row.number].log(kept, step=row.epochs))

    @override
    def trial_ended(self, row: TrialRow) -> None:
        self._guarded(lambda: self._finish(row))

    def _finish(self, row: TrialRow) -> None:
        run = self.runs.pop(row.number, None)
        if run is not None:
            run.summary.update({"state": row.state, "best_miou": row.best_miou, "best_epoch": row.best_epoch})
            run.finish(exit_code=0 if row.state in ("COMPLETE", "PRUNED") else 1)

    @override
    def end(self) -> None:
        for run in self.runs.values():
            self._guarded(run.finish)
        self.runs.clear()


TRACKERS: dict[str, type[WandbTracker]] = {"wandb": WandbTracker}


def build_trackers(names: Sequence[str], run_dir: Path) -> list[Observer]:
    """The trackers that a space names. `jsonl` is accepted and always on.

    Raises ValueError for an unknown name, with the nearest match.
    """
    known = [*TRACKERS, "jsonl"]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"a tracker must be one of {', '.join(known)}, got {name}; did you mean {near[0]}?")
    return [TRACKERS[name](run_dir) for name in names if name in TRACKERS]
