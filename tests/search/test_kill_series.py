"""A run that is killed at each of its critical moments ends as one that was never interrupted.

One run is killed at the first moment, resumed, killed at the second, and so on to its end: each moment is reached in
the state that all kills before it have left. `killing/` hits a moment by the function that is called there, not by
time.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from safetensors import safe_open

from search.observers.event_log import read_events
from search.stages.stage import Stage
from trainables.data.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[2]
KILLING = ROOT / "tests" / "killing"
MARK = "TEST_KILL_SERIES"  # in the environment of every process of the series
ORPHANS_END_S = 10.0  # of Ray's processes, after their driver; agents that were just starting take longer

BASE = (
    *("--space", "convnext.yaml", "--profile", "cpu", "--no-dashboard"),
    *("--set", "model={backbone: test_convnext2, head: {name: segformer, channels: 16}, pretrained: false}"),
    *("--set", "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}"),
    *("--set", "train.batch_size=4", "--set", "tta={scales: [1.0], flips: [none, horizontal]}"),
    *("--set", "search={num_trials: 2, max_epochs: 2, grace_epochs: 1, max_concurrent: 1, max_failures: 0}"),
    *("--set", "ensemble={sample_mb: 1, resamples: 100, max_sweeps: 2, folds: 2, temperature: 'off'}"),
)
WITH_FOLDS = (*BASE, "--set", "folds={num: 2, recipes: 1}", "--set", "trackers=[wandb]")


@dataclass(frozen=True)
class Moment:
    """Before or after the `nth` call of a function in one session; `about` is text that its arguments must hold."""

    name: str
    call: str  # module:attribute
    when: Literal["before", "after"] = "before"
    nth: int = 1
    about: str = ""


MOMENTS = (
    Moment("while the cache is built", "trainables.data.cache:_label_fingerprint"),
    Moment("after run.json, before Ray", "search.cluster.connection:protect_token"),
    Moment("before the run has begun", "search.run_record:write_json", nth=2, about="run.json"),
    Moment("at a new trial before its recipe", "search.engine.searcher:FamilySearch._note_admission"),
    Moment("while a trial trains", "trainables.training.attempt:_validate", nth=2),
    Moment("between a checkpoint and its report", "trainables.ray_trainable:EpochReporter.__call__"),
    Moment("between Ray's checkpoint and the study's", "search.engine.ray_callback:TrialTable.on_checkpoint"),
    Moment("inside a tracker", "search.observers.wandb_tracker:WandbTracker.epoch"),
    Moment("between tell and trial_ended", "search.engine.ray_callback:TrialTable._end"),
    Moment("while a fold model trains", "trainables.training.attempt:_validate", nth=2),
    Moment("between a fold's record and its weights", "trainables.fit_fold:write_text", "after"),
    Moment("between a fold's weights and the next fold", "trainables.fit_fold:_take_last", "after"),
    Moment("in val logits", "trainables.logits.store:LogitWriter._write_shard", nth=3),
    Moment("in hold-out logits", "trainables.logits.store:LogitWriter._write_shard", nth=2),
    Moment("while the ensemble is fitted", "analysis.ensembling.select_on_val:crossfit_rules"),
    Moment("between the opened hold-out and ensemble.json", "analysis.ensembling.judge_on_holdout:_count"),
    Moment("between confusions and ensemble.json", "analysis.ensembling.fit:write_confusions", "after"),
    Moment("while the bundle is copied", "analysis.bundle.export:sha256_of"),
    Moment("between the whole bundle and run.json", "analysis.bundle.export:replace_folder", "after"),
    Moment("between the old bundle and the new one", "pathlib:Path.replace", "after", about=".bundle.old"),
    Moment("while the report is written", "pathlib:Path.replace", about="report.html"),
)
OPENED = 2  # kills after the hold-out was opened and before ensemble.json
TOLD = ["bundle.json", "README.md"]  # they say how often the hold-out was opened, and where the run lies
SOUP_MOMENTS = (
    Moment("in a soup", "trainables.training.soup:check_same", "after"),
    Moment("between a soup's weights and soup.json", "trainables.training.soup:write_text"),
)


class Drivers:
    """Starts sessions of a run one after the other, see killing/drivers.py."""

    def __init__(self, folder: Path) -> None:
        self.log, self.mark = folder / "session.log", str(folder)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(KILLING), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # read as Ray is imported, see search/cluster/connection.py
            "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 1}),  # one process at a time
            "RAY_worker_niceness": "0",  # its default of 15 starves the run beside any other work
            "WANDB_MODE": "offline",
            MARK: self.mark,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(KILLING / "drivers.py")],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str], moment: Moment | None = None) -> None:
        """A whole session, to its end or to the moment; up to three times where this machine is too busy for Ray."""
        exit_code, said = 2, "Ray must start within 30 s"
        for _ in range(3):
            if exit_code == 2 and "Ray must start within 30 s" in said:
                exit_code, said = self.session(arguments, moment)
                self.end_orphans()
        wanted = 0 if moment is None else -signal.SIGKILL
        assert exit_code == wanted, f"{moment and moment.name}: ended with {exit_code}, said:\n{said}"

    def session(self, arguments: Sequence[str], moment: Moment | None) -> tuple[int, str]:
        """The exit code of a process, and what it said."""
        environment = {} if moment is None else {"TEST_KILL_MOMENT": json.dumps(_fields(moment))}
        asked = {"arguments": list(arguments), "environment": environment, "log": str(self.log)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), self.log.read_text(encoding="utf-8", errors="replace")

    def end_orphans(self) -> None:
        """Let Ray's processes notice that their driver is gone; those that do not are ended by id."""
        end = time.monotonic() + ORPHANS_END_S
        while (left := self.orphans()) and time.monotonic() < end:
            time.sleep(0.2)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def orphans(self) -> list[int]:
        mark, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                try:
                    marked = mark in (entry / "environ").read_bytes().split(b"\0")
                    zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                except OSError:  # it has ended, or is another user's
                    continue
                if marked and not zombie:
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _fields(moment: Moment) -> dict[str, Any]:
    return {key: value for key, value in vars(moment).items() if key != "name"}


@pytest.mark.parametrize("moment", [*MOMENTS, *SOUP_MOMENTS], ids=lambda moment: moment.name)
def test_a_moment_names_what_exists(moment: Moment) -> None:
    module, _, attribute = moment.call.partition(":")
    assert callable(operator.attrgetter(attribute)(importlib.import_module(module)))


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Drivers]:
    started = Drivers(tmp_path)
    yield started
    started.close()


def killed_series(
    drivers: Drivers, run: Path, cache: Path, arguments: Sequence[str], moments: Sequence[Moment]
) -> None:
    """A run that is killed at one moment after the other, resumed each time, and then left to end."""
    for moment in (*moments, None):
        begun = (run / "run.json").exists()
        how = ["--resume", str(run), "--no-dashboard"] if begun else [*arguments, "--run-dir", str(run)]
        begun_s = time.monotonic()
        drivers.run([*how, "--cache-dir", str(cache)], moment)
        print(f"{time.monotonic() - begun_s:6.1f} s  {moment.name if moment else 'to the end'}", flush=True)


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_run_killed_at_every_moment_ends_as_one_that_was_not(drivers: Drivers, tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=4)
    arguments = (*WITH_FOLDS, "--data", str(card))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed_series(drivers, whole, tmp_path / "cache", arguments, [])
    killed_series(drivers, killed, tmp_path / "cache_of_killed", arguments, MOMENTS)

    assert trials_of(killed) == trials_of(whole)
    assert trials_of(whole)[0]["best_epoch"] == "2", "a fold model needs the second epoch that it is killed in"
    for name in ("space.yaml", "folds.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert files_of(killed / "folds") == files_of(whole / "folds")
    assert counts_of(killed) == counts_of(whole)
    assert judged(killed) == judged(whole)
    assert len((killed / "holdout_opened.jsonl").read_text().splitlines()) == 1 + OPENED
    assert files_of(killed / "bundle", but=TOLD) == files_of(whole / "bundle", but=TOLD)
    manifest, expected = (json.loads((run / "bundle" / "bundle.json").read_text()) for run in (killed, whole))
    assert manifest | {"caveats": expected["caveats"]} == expected
    assert list(json.loads((killed / "run.json").read_text())["stages"]) == list(Stage)
    assert (killed / "report.html").stat().st_size > 0
    ended = Counter(e["trial"] for e in read_events(killed / "events.jsonl") if e["event"] == "trial_ended")
    assert ended == {"00000": 1, "00001": 1}
    assert leftovers(killed) == leftovers(tmp_path / "cache_of_killed") == []


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_soup_killed_at_every_moment_is_the_one_that_was_not(drivers: Drivers, tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=4)
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    arguments = (*BASE, "--data", str(card), "--until", "soups")
    killed_series(drivers, whole, cache, arguments, [])
    shutil.copytree(whole, killed)  # the same search; its soups are made anew
    shutil.rmtree(killed / "soups")
    record = json.loads((killed / "run.json").read_text())
    del record["stages"]["soups"]
    (killed / "run.json").write_text(json.dumps(record))
    for moment in (*SOUP_MOMENTS, None):
        drivers.run(["--resume", str(killed), "--no-dashboard", "--cache-dir", str(cache), "--until", "soups"], moment)

    expected = files_of(whole / "soups")
    assert any(path.endswith("soup.json") for path in expected)
    moved = {path: content.replace(bytes(killed), bytes(whole)) for path, content in files_of(killed / "soups").items()}
    assert moved == expected
    assert leftovers(killed) == []


def trials_of(run: Path) -> list[dict[str, Any]]:
    """trials.csv without times, with the contents of the weights that it names."""
    with (run / "trials.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(file)]
    for row in rows:
        del row["device_s"]
        row["checkpoint"] = (Path(row["checkpoint"]) / "best.safetensors").read_bytes()
    return rows


def judged(run: Path) -> Any:
    """ensemble.json without measured times, and without what it says of earlier openings of the hold-out."""
    values = json.loads((run / "ensemble.json").read_text())
    del values["holdout_opened"], values["pareto"]  # which ensembles are on the front is a matter of milliseconds
    values["caveats"] = [caveat for caveat in values["caveats"] if "hold-out was opened before" not in caveat]
    return without_times(values)


def counts_of(run: Path) -> dict[str, Any]:
    """confusions.safetensors; its bytes differ in the order of its metadata."""
    with safe_open(run / "confusions.safetensors", framework="np") as file:
        return {"metadata": file.metadata(), **{key: file.get_tensor(key).tolist() for key in file.keys()}}  # noqa: SIM118


def without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_times(item) for key, item in value.items() if key not in ("cost", "costs")}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def files_of(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders, which have a dot before their name."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".validate_storage_marker"
    )
