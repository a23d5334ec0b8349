"""One W&B run per trial, offline where there is no API key."""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.observers.event_log import EVENT_KEYS
from search.observers.trial_row import Observer, TrialRow


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
    """One W&B run per trial, grouped by the search. A trial that goes on after a crash keeps its run's id."""

    def __init__(self, run_dir: Path, *, say: Callable[[str], None] = print) -> None:
        self.run_dir, self.say = run_dir, say
        self.mode = wandb_mode(os.environ, Path.home())
        self.runs: dict[int, Any] = {}

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        if self.mode == "offline":
            self.say(
                f"W&B: no key, so runs are kept offline; send them with: wandb sync {self.run_dir}/wandb/offline-*"
            )

    @override
    def trial_started(self, row: TrialRow) -> None:
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
        self.runs[row.number].log(kept, step=row.epochs)

    @override
    def trial_ended(self, row: TrialRow) -> None:
        run = self.runs.pop(row.number, None)
        if run is not None:
            run.summary.update({"state": row.state, "best_miou": row.best_miou, "best_epoch": row.best_epoch})
            run.finish(exit_code=0 if row.state in ("COMPLETE", "PRUNED") else 1)

    @override
    def end(self) -> None:
        for run in self.runs.values():
            run.finish()
        self.runs.clear()
