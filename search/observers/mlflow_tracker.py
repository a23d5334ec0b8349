"""One MLflow run per trial, under one run for the whole search; in RUN/mlflow unless MLFLOW_TRACKING_URI is set."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from PIL import Image
from typing_extensions import override

from search.observers.replay import ReplayingTracker
from search.observers.search_info import Outcome, SearchInfo
from search.observers.trial_row import TrialRow
from search.run_dir import read_json

KEY, TRIAL, STATE = "segsearch.search", "segsearch.trial", "state"
WHOLE_SEARCH = "search"  # the parent run's value of TRIAL
LOADER = "analysis.bundle.mlflow_model"  # what `mlflow.pyfunc.load_model` imports
MAX_TAG = 4000  # characters; MLflow takes 8000
DEFAULTS = {  # of MLflow's own settings, where the user has not set them
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds: the search waits for the tracker
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class MlflowTracker(ReplayingTracker):
    """Runs are found by tags (which search, which trial), so that a resumed search goes on with them."""

    def __init__(
        self, info: SearchInfo, *, clock: Callable[[], float] = time.time, say: Callable[[str], None] = print
    ) -> None:
        super().__init__(info)
        self.clock, self.say = clock, say
        self.uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.client: Any = None
        self.experiment = self.key = ""
        self.runs: dict[str, str] = {}  # trial -> MLflow's run id
        self.ended: set[str] = set()

    @override
    def open(self) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
        logging.getLogger("alembic").setLevel(logging.WARNING)
        folder = self.info.run.mlflow
        if self.uri:
            self.client = MlflowClient(tracking_uri=without_password(self.uri))
        else:
            folder.mkdir(exist_ok=True)
            store = f"sqlite:///{folder / 'mlflow.db'}"
            self.client = MlflowClient(tracking_uri=store)
            self.say(
                f"MLflow: runs are kept in the run directory; see them with: mlflow server --backend-store-uri {store}"
            )
        self.key = search_key(self.info)
        self.experiment = self._experiment()
        self._find_runs()
        if WHOLE_SEARCH not in self.runs:
            self._create(WHOLE_SEARCH, self.info.run.root.name, {})
            if self.info.run.space_yaml.is_file():
                self.client.log_artifact(self.runs[WHOLE_SEARCH], str(self.info.run.space_yaml))
        self.client.update_run(self.runs[WHOLE_SEARCH], status="RUNNING")

    def _experiment(self) -> str:
        """The id of the experiment MLFLOW_EXPERIMENT_NAME, or 'segsearch'."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "segsearch")
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = None if self.uri else (self.info.run.mlflow / "artifacts").as_uri()
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _find_runs(self) -> None:
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment], f"tags.`{KEY}` = '{self.key}'", page_token=token)
            for run in page:
                self.runs[run.data.tags[TRIAL]] = run.info.run_id
                if STATE in run.data.tags:
                    self.ended.add(run.data.tags[TRIAL])
            token = page.token
            if not token:
                return

    def _create(self, trial: str, name: str, tags: Mapping[str, str]) -> None:
        own = {KEY: self.key, TRIAL: trial, **tags}
        run = self.client.create_run(self.experiment, tags=own, run_name=name)
        self.runs[trial] = run.info.run_id

    @override
    def recorded(self, trial: str) -> set[int]:
        if trial not in self.runs:
            return set()
        return {metric.step for metric in self.client.get_metric_history(self.runs[trial], "val/miou")}

    @override
    def has_ended(self, trial: str) -> bool:
        return trial in self.ended

    @override
    def start(self, row: TrialRow) -> None:
        from mlflow.entities import Param

        if row.trial not in self.runs:
            tags = {"family": row.family, "backbone": row.backbone, "head": row.head, "recipe_hash": row.recipe_hash}
            parent = {"mlflow.parentRunId": self.runs[WHOLE_SEARCH]}
            self._create(row.trial, f"{self.info.run.root.name}-{row.trial}", tags | parent)
        run_id = self.runs[row.trial]
        params = [Param(re.sub(r"[^\w.\- :/]", "_", key), str(value)) for key, value in row.params.items()]
        self.client.log_batch(run_id, params=params)  # the same ones again are no error
        self.client.update_run(run_id, status="RUNNING")

    @override
    def record(self, row: TrialRow, epoch: int, values: Mapping[str, float], at_s: float | None) -> None:
        from mlflow.entities import Metric

        at_ms = round(1000 * (self.clock() if at_s is None else at_s))
        metrics = [Metric(name, value, at_ms, epoch) for name, value in values.items()]
        self.client.log_batch(self.runs[row.trial], metrics=metrics)

    @override
    def finish(self, row: TrialRow) -> None:
        from mlflow.entities import Metric, RunTag

        if row.trial not in self.runs:
            self.start(row)
        run_id, at_ms = self.runs[row.trial], round(1000 * self.clock())
        best = [] if row.best_miou is None else [Metric("best_miou", row.best_miou, at_ms, row.best_epoch or 0)]
        error = [RunTag("error", row.error[-MAX_TAG:])] if row.error else []
        self.client.log_batch(run_id, metrics=best, tags=error)
        self.client.set_terminated(run_id, "FINISHED" if row.state in ("COMPLETE", "PRUNED") else "FAILED")
        self.client.set_tag(run_id, STATE, row.state)  # last: it says that all of the trial is recorded
        self.ended.add(row.trial)

    @override
    def finished(self, outcome: Outcome) -> None:
        """The verdict, the rules' table, sample predictions and the bundle, which is registered as a model. The
        embedded store gets the bundle's manifest alone: its weights lie in the same run directory."""
        run_id = self.runs[WHOLE_SEARCH]
        self.client.set_tag(run_id, "verdict", outcome.verdict[:MAX_TAG])
        if outcome.rules:
            table = {"columns": list(outcome.rules[0]), "data": [list(row.values()) for row in outcome.rules]}
            self.client.log_dict(run_id, table, "rules.json")
        for path, caption in outcome.samples.items():
            with Image.open(path) as picture:
                self.client.log_image(run_id, picture, artifact_file=f"samples/{path.name}")
            self.client.set_tag(run_id, f"samples.{path.stem}", caption[:MAX_TAG])
        if self.uri:
            self.client.log_artifacts(run_id, str(outcome.bundle), "bundle")
            self.client.log_artifact(run_id, str(outcome.report))
        else:
            self.client.set_tag(run_id, "bundle", str(outcome.bundle))
            self.client.log_artifact(run_id, str(outcome.bundle / "bundle.json"), "bundle")
        self._register(run_id, outcome.bundle)

    def _register(self, run_id: str, bundle: Path) -> None:
        """Make the logged bundle a model that `mlflow.pyfunc.load_model` loads, a version per run."""
        from mlflow.models import Model

        model = Model(run_id=run_id, artifact_path="bundle")
        where = {} if self.uri else {"data": str(bundle.resolve())}  # an absolute path; without it, the file's folder
        model.add_flavor("python_function", loader_module=LOADER, python_version=platform.python_version(), **where)
        self.client.log_text(run_id, model.to_yaml(), "bundle/MLmodel")
        if self.client.search_model_versions(f"run_id = '{run_id}'"):
            return
        name = re.sub(r"[/:]", "_", self.info.run.root.name)
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/bundle"
        version = self.client.create_model_version(name, source, run_id)
        self.say(f"MLflow: the bundle is the model models:/{name}/{version.version}")

    @override
    def end(self) -> None:
        for trial in self.epochs:
            if trial not in self.ended:
                self.client.set_terminated(self.runs[trial], "KILLED")  # until the search is resumed
        if WHOLE_SEARCH in self.runs:
            self.client.set_terminated(self.runs[WHOLE_SEARCH], "FINISHED")


def without_password(uri: str) -> str:
    """The address without its user and password, which MLflow then takes from the environment: the texts of its errors,
    which are shown, hold the address."""
    parts = urlsplit(uri)
    if parts.password is None or parts.scheme not in ("http", "https"):
        return uri
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(parts.username or ""))
    os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(parts.password))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def search_key(info: SearchInfo) -> str:
    """What tells this search from others on a server, wherever its directory is moved: from what run.json says once and
    for all."""
    path = info.run.run_json
    record = read_json(path) if path.is_file() else {"root": str(info.run.root)}
    kept = {name: record.get(name) for name in ("root", "command", "asked", "started", "data_fingerprint")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
