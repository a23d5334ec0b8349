"""Every path of a run, in one place, and the JSON read and written there.

Nothing else in the product joins a run's paths.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from trainables.files import remove_unfinished, write_text
from trainables.plain_json import read_object

URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # of two letters and more: C:/ is a drive
JOURNAL = "study.journal"
BUNDLE = "bundle"  # the folder of what ships, of a run or of a student


@dataclass(frozen=True)
class RunDir:
    """The directory of one run; docs/architecture.md says what each file holds."""

    root: Path  # absolute

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def space_yaml(self) -> Path:
        return self.root / "space.yaml"

    @property
    def data_json(self) -> Path:
        return self.root / "data.json"

    @property
    def trials_csv(self) -> Path:
        return self.root / "trials.csv"

    @property
    def study_db(self) -> Path:
        """SQLite's file, or the journal where the study is one."""
        journal = self.root / JOURNAL
        return journal if journal.exists() else self.root / "study.db"

    @property
    def warm_start_json(self) -> Path:
        """The trials of earlier runs that the search began with."""
        return self.root / "warm_start.json"

    @property
    def tune(self) -> Path:
        return self.root / "tune"

    @property
    def soups(self) -> Path:
        return self.root / "soups"

    @property
    def noise_json(self) -> Path:
        return self.root / "noise.json"

    @property
    def audit_json(self) -> Path:
        """The epochs of stopped trials that were trained on."""
        return self.root / "audit.json"

    @property
    def audit(self) -> Path:
        """The folder of stopped trials that are being trained on."""
        return self.root / "audit"

    @property
    def folds_json(self) -> Path:
        return self.root / "folds.json"

    def fold_models(self, member: str) -> Path:
        """The folder of a recipe's fold models."""
        return self.root / "folds" / member

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files of the tracker `tensorboard`."""
        return self.root / "tensorboard"

    @property
    def mlflow(self) -> Path:
        """The embedded store of the tracker `mlflow`."""
        return self.root / "mlflow"

    @property
    def ensemble_json(self) -> Path:
        return self.root / "ensemble.json"

    @property
    def confusions(self) -> Path:
        return self.root / "confusions.safetensors"

    @property
    def bundle(self) -> Path:
        return self.root / BUNDLE

    def export_of(self, file_format: str, name: str) -> Path:
        """Where a rule or trial that a user chose is written by default."""
        return self.root / f"{file_format}-{name}"

    @property
    def distilled(self) -> Path:
        """The folder of the one model that learnt from the ensemble."""
        return self.root / "distilled"

    @property
    def distilled_json(self) -> Path:
        return self.distilled / "distilled.json"

    @property
    def pseudo(self) -> Path:
        """The folder of the student that learnt from pseudo labels."""
        return self.root / "pseudo"

    @property
    def pseudo_json(self) -> Path:
        return self.pseudo / "pseudo.json"

    @property
    def suspects(self) -> Path:
        """Where `segsearch cleanse` is told to write what looks wrong in the run's labels."""
        return self.root / "suspects"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def class_pages(self) -> Path:
        """The folder of the report's pages per class."""
        return self.root / "classes"

    @property
    def samples(self) -> Path:
        """The folder of a few hold-out images with their labels and predictions, which the trackers get."""
        return self.root / "samples"

    def logits(self, trial: str, part: Literal["val", "holdout", "refit"]) -> Path:
        return self.root / "logits" / trial / part


def uri_of(path: Path) -> str | None:
    """The URI that a path was given as, such as s3://bucket/runs/a; None for a folder of this machine."""
    found = URI.match(str(path))
    if found is None:
        return None
    slashes = "///" if found[1].lower() == "file" else "//"  # a Path keeps but one
    return f"{found[1]}:{slashes}{str(path)[found.end() :]}"


def new_run_dir(space_name: str, now: datetime, run_dir: Path | None) -> RunDir:
    """Make the directory of a fresh run: `run_dir`, or runs/<space>-<yyyymmdd-hhmmss>, with a number after it where
    another run began in that second.

    Raises ValueError where the directory holds a run that has begun, or cannot be written to.
    """
    root = first = (run_dir or Path("runs") / f"{space_name}-{now:%Y%m%d-%H%M%S}").expanduser().resolve()
    numbered = (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))
    if run_dir:
        check_new(root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        while not _make(root) and not run_dir:
            root = next(numbered)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ValueError(
            f"the run directory must be writable, got {root} ({error.strerror}); give another with --run-dir"
        ) from error
    return RunDir(root)


def _make(folder: Path) -> bool:
    """Whether the folder was not there. Raises OSError where a file is."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def check_new(root: Path, name: str | None = None) -> None:
    """Raises ValueError where `root` holds a run, which the user knows as `name`. One that was ended before its split
    was known leaves nothing that a new run could spoil, and may be started anew."""
    run = RunDir(root)
    if not run.run_json.exists():
        return
    record = read_json(run.run_json)
    if record.get("stages") != {} or "split_fingerprint" in record or run.study_db.exists():
        name = name or str(root)
        raise ValueError(f"a new run needs a directory of its own, got {name}, which holds one; use --resume {name}")


def check_is_here(path: Path, option: str) -> None:
    """Raises ValueError for a URI, with the command that downloads what lies there."""
    if (uri := uri_of(path)) is not None:
        raise ValueError(
            f"{option} needs a folder of this machine, got {uri}; fetch the run first: "
            f"segsearch fetch '{uri}' --out DIR"
        )


def existing_run_dir(root: Path, option: str = "--resume") -> RunDir:
    """The directory of a run that has been started, which an option named. Raises ValueError where there is none."""
    check_is_here(root, option)
    if not (root / "run.json").is_file():
        raise ValueError(f"{option} needs a run directory with a run.json, got {root}; runs lie under runs/ by default")
    return RunDir(root.resolve())


def clear_unfinished(run: RunDir) -> None:
    """Remove what a killed session left half written; a file may hold a whole network's weights. Ray's own folder is
    left alone: nothing of ours is written there in place. Only for the holder of the run's lock."""
    for path in run.root.iterdir():
        if path != run.tune:
            remove_unfinished(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote. Raises ValueError that names a broken file."""
    return read_object(path, "restore it or start a new run")
