"""One W&B run per trial, offline where there is no API key."""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.observers.search_info import Outcome, SearchInfo, plain_names, scalars
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

    def __init__(self, info: SearchInfo, *, say: Callable[[str], None] = print) -> None:
        self.run_dir, self.say = info.run.root, say
        self.space_yaml, self.class_names = info.run.space_yaml, plain_names(info.classes)
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
        config = {**row.recipe, "family": row.family, "recipe_hash": row.recipe_hash}
        self.runs[row.number] = self._init(row.trial, f"{row.trial}-{row.recipe_hash}", config, [row.family])

    def _init(self, name: str, run_id: str, config: Mapping[str, Any], tags: list[str]) -> Any:
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "segsearch"),
            group=self.run_dir.name,
            name=f"{self.run_dir.name}-{name}",
            id=f"{self.run_dir.name}-{run_id}",
            resume="allow" if self.mode == "online" else None,
            dir=str(self.run_dir),
            config=dict(config),
            tags=tags,
            mode=self.mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        self.runs[row.number].log(scalars(metrics, self.class_names), step=row.epochs)

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

    @override
    def finished(self, outcome: Outcome) -> None:
        import wandb

        run = self._init("search", "search", {}, [])
        run.summary.update({"verdict": outcome.verdict, "report": str(outcome.report), "bundle": str(outcome.bundle)})
        if outcome.rules:
            data = [list(row.values()) for row in outcome.rules]
            run.log({"rules": wandb.Table(columns=list(outcome.rules[0]), data=data)})
        bundle = wandb.Artifact(f"{self.run_dir.name}-bundle", type="model")
        bundle.add_dir(str(outcome.bundle), policy="immutable")  # no copy of the weights is made first
        run.log_artifact(bundle)
        if self.space_yaml.is_file():
            space = wandb.Artifact(f"{self.run_dir.name}-space", type="config")
            space.add_file(str(self.space_yaml))
            run.log_artifact(space)
        run.finish()
