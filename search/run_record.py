"""run.json: what a run was asked, what that came to, on which code, and which stages are done.

It is written twice before the first trial: as the run is claimed, before Ray starts, and when space and split are
known. Only the second says that the run has begun; until then nothing of it is worth keeping.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from search.run_arguments import RunArguments
from search.run_dir import RunDir, read_json, write_json
from trainables.files import write_text

if TYPE_CHECKING:
    from search.space.space import Space
    from search.stages.run_data import Data

PACKAGES = (
    "segsearch",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "optuna",
)
BEGUN = ("space", "profile", "split_fingerprint")
OPTIONS = {"assignments": "set", "warm_start": "warm-start"}  # where a key of `asked` has another name


class _Asked(BaseModel):
    """What the command line said."""

    space: str | None
    data: str | None
    assignments: list[str]
    profile: str | None
    warm_start: list[str] = []


class _Export(BaseModel):
    """A bundle of a rule that a user chose in place of the verdict's."""

    at: str
    rule: str
    out: str
    said: str


class _Record(BaseModel):
    """What every run.json holds; the keys of BEGUN come later."""

    asked: _Asked
    card: str
    data_fingerprint: str
    versions: dict[str, str | None]
    stages: dict[str, str]
    stage_s: dict[str, float] = {}  # what each took, of the session that ended it
    forecast_s: dict[str, float] = {}  # what those after the search were expected to take, when it had ended
    started: datetime
    space: str = ""
    profile: str | None = None
    split_fingerprint: str = ""
    exports: list[_Export] = []


def claim(run: RunDir, asked: RunArguments, card: Path, fingerprint: str, now: datetime, argv: tuple[str, ...]) -> None:
    """Write the run.json of a run that is about to start Ray."""
    write_json(
        run.run_json,
        {
            "format": "segsearch-run/1",
            "command": list(argv),
            "asked": asked.given,
            "card": str(card),
            "data_fingerprint": fingerprint,
            "started": now.isoformat(timespec="seconds"),
            "versions": package_versions(),
            "git": _git_state(),
            "stages": {},
        },
    )


def begin(run: RunDir, space: Space, data: Data, described: Mapping[str, Any]) -> None:
    """Write space.yaml and data.json, then complete run.json: from here on the run is resumed as it is."""
    write_text(run.space_yaml, space.to_yaml())
    write_json(run.data_json, described)
    begun = {
        "space": space.name,
        "profile": space.profile,
        "seed": space.options.seed,
        "split_fingerprint": data.split.fingerprint,
    }
    write_json(run.run_json, read_json(run.run_json) | begun)


def has_begun(record: Mapping[str, Any]) -> bool:
    """Whether trials may have run: space and split are fixed."""
    return all(key in record for key in BEGUN)


def read_record(run: RunDir) -> dict[str, Any]:
    """The run.json of a claimed run. Raises ValueError where it is none."""
    record = read_json(run.run_json)
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lacks = [".".join(map(str, fault["loc"])) for fault in faults if fault["type"] == "missing"]
        places = [(".".join(map(str, fault["loc"])), fault) for fault in faults if fault["type"] != "missing"]
        wrong = [f"got {fault['input']!r:.60} for {where}: {fault['msg']}" for where, fault in places]
        found = "; ".join([*([f"lacks {', '.join(lacks)}"] if lacks else []), *wrong])
        raise ValueError(
            f"{run.run_json} must be a run's record, {found:.500}; restore it or start a new run"
        ) from error
    return record


def check_same_arguments(asked: RunArguments, record: Mapping[str, Any]) -> None:
    """Raises ValueError where something typed with --resume differs from what was asked at first."""
    first = record["asked"]
    changed = [
        f"--{OPTIONS.get(key, key)}: {value!r}, but the run was started with {first.get(key)!r}"
        for key, value in asked.given.items()
        if value and value != first.get(key) and not (key == "profile" and value == record.get("profile"))
    ]
    if asked.run_dir:
        changed.append(f"--run-dir: {str(asked.run_dir)!r}, but --resume names the run's directory already")
    if changed:
        raise ValueError(
            "--resume must be given the original arguments; start a new run, or drop these:\n" + "\n".join(changed)
        )


def check_same(record: Mapping[str, Any], what: Literal["data", "split"], fingerprint: str) -> None:
    """Raises ValueError where the data, or their split, are not those of the run."""
    began_with = record[f"{what}_fingerprint"]
    if began_with != fingerprint:
        raise ValueError(
            f"a resumed run needs the {what} that it began with ({began_with}), got {fingerprint}; restore the files "
            "or start a new run"
        )


def package_versions() -> dict[str, str | None]:
    """Name -> version; None for a package that runs without being installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def changed_versions(record: Mapping[str, Any]) -> list[str]:
    """'torch 2.14.0, now 2.15.0' for each package that differs from the run's record."""
    now = package_versions()
    return [
        f"{name} {then or 'not installed'}, now {now[name] or 'not installed'}"
        for name, then in record["versions"].items()
        if name in now and now[name] != then
    ]


def _git_state() -> dict[str, Any] | None:
    """The commit of this checkout, and whether it was changed; None where there is no git checkout."""
    here = Path(__file__).parents[1]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=here, env=environment, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
