"""One W&B run per trial, offline where there is no API key."""

from __future__ import annotations

import json
import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from search.observers.event_log import read_events
from search.observers.replay import ReplayingTracker
from search.observers.search_info import Outcome, SearchInfo
from search.observers.trial_row import TrialRow


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


class WandbTracker(ReplayingTracker):
    """One W&B run per trial, grouped by the search. A trial that goes on after a crash keeps its run's id, and one that
    is told its missed epochs later too.

    W&B hands a run's records to a service and cannot be asked for them offline, so RUN/wandb/recorded.jsonl lists what
    it was given.
    """

    def __init__(self, info: SearchInfo, *, say: Callable[[str], None] = print) -> None:
        super().__init__(info)
        self.run_dir, self.space_yaml, self.say = info.run.root, info.run.space_yaml, say
        self.mode = wandb_mode(os.environ, Path.home())
        self.ledger = self.run_dir / "wandb" / "recorded.jsonl"
        self.given: dict[str, set[int]] = {}  # trial -> epochs in the ledger
        self.ended: set[str] = set()
        self.runs: dict[str, Any] = {}

    @override
    def open(self) -> None:
        if self.mode == "offline":
            self.say(
                f"W&B: no key, so runs are kept offline; send them with: wandb sync {self.run_dir}/wandb/offline-*"
            )
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        for entry in read_events(self.ledger) if self.ledger.is_file() else ():
            if entry["event"] == "epoch":
                self.given.setdefault(entry["trial"], set()).add(entry["epoch"])
            else:
                self.ended.add(entry["trial"])

    @override
    def recorded(self, trial: str) -> set[int]:
        return self.given.get(trial, set())

    @override
    def has_ended(self, trial: str) -> bool:
        return trial in self.ended

    @override
    def start(self, row: TrialRow) -> None:
        if row.trial in self.runs:  # it was told of what it missed, or goes on after a crash
            return
        config = {**row.recipe, "family": row.family, "recipe_hash": row.recipe_hash}
        self.runs[row.trial] = self._init(row.trial, f"{row.trial}-{row.recipe_hash}", config, [row.family])

    @override
    def record(self, row: TrialRow, epoch: int, values: Mapping[str, float], at_s: float | None) -> None:
        self.runs[row.trial].log(dict(values), step=epoch)
        self._note("epoch", row, epoch)

    @override
    def finish(self, row: TrialRow) -> None:
        self.start(row)
        run = self.runs.pop(row.trial)
        run.summary.update({"state": row.state, "best_miou": row.best_miou, "best_epoch": row.best_epoch})
        run.finish(exit_code=0 if row.state in ("COMPLETE", "PRUNED") else 1)
        self.ended.add(row.trial)
        self._note("ended", row, row.epochs)

    def _note(self, event: str, row: TrialRow, epoch: int) -> None:
        with self.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "trial": row.trial, "epoch": epoch}) + "\n")

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
        if outcome.samples:
            pictures = [wandb.Image(str(path), caption=caption) for path, caption in outcome.samples.items()]
            run.log({"sample predictions": pictures})
        bundle = wandb.Artifact(f"{self.run_dir.name}-bundle", type="model")
        bundle.add_dir(str(outcome.bundle), policy="immutable")  # no copy of the weights is made first
        run.log_artifact(bundle)
        if self.space_yaml.is_file():
            space = wandb.Artifact(f"{self.run_dir.name}-space", type="config")
            space.add_file(str(self.space_yaml))
            run.log_artifact(space)
        run.finish()
