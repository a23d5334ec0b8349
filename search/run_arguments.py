"""The values of the command line, and the command that goes on with a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from search.cluster.connection import RAY_JOB
from search.run_dir import uri_of
from search.stages.stage import Stage
from trainables.command import DEFAULT_CACHE


@dataclass(frozen=True)
class RunArguments:
    """The command line. `None` is 'not given'."""

    space: str | None
    data: Path | None
    assignments: tuple[str, ...]
    profile: str | None
    run_dir: Path | None
    resume: Path | None
    address: str | None
    cache_dir: Path
    dashboard: bool
    until: Stage = Stage.report  # the last stage to be done now
    trackers: tuple[str, ...] = ()  # of this session, besides the space's
    warm_start: tuple[Path, ...] = ()  # earlier runs whose trials the search begins with

    @property
    def given(self) -> dict[str, Any]:
        """What decides a run's results, as run.json keeps it under `asked`."""
        return {
            "space": self.space,
            "data": str(self.data.expanduser().resolve()) if self.data else None,
            "assignments": list(self.assignments),
            "profile": self.profile,
            "warm_start": [str(root.expanduser().resolve()) for root in self.warm_start],
        }


def resume_command(asked: RunArguments, argv: Sequence[str], place: str | Path) -> str:
    """The command that goes on with the run at `place`, by the program that the user called."""
    program = Path(argv[0])
    if program.suffix == ".py":
        words = ["python", argv[0], *(["run"] if program.stem == "cli" else [])]
    else:
        words = [program.name, "run"]
    words += ["--resume", str(place)]
    words += ["--address", asked.address] if asked.address else []
    words += ["--cache-dir", str(asked.cache_dir)] if asked.cache_dir != DEFAULT_CACHE else []
    words += [word for name in asked.trackers for word in ("--tracker", name)]
    return shlex.join(words)


def check_storage(asked: RunArguments, environment: Mapping[str, str]) -> None:
    """Raises ValueError, with all that is wrong, where the run would be lost with Ray's session folder, into which
    `ray job submit --working-dir` unpacks; or where a job would start a cluster of its own."""
    kept, in_job = asked.resume or asked.run_dir, RAY_JOB in environment
    problems = []
    if in_job and kept is None:
        problems.append(
            "a run in a Ray job needs --run-dir on storage that lasts and that all nodes see, got none: runs/ would be "
            "deleted with the job's files; give --run-dir /shared/runs/NAME"
        )
    root = (kept or Path("runs")).expanduser().resolve()
    if kept and uri_of(kept) is None and _is_rays(root):
        flag = "--resume" if asked.resume else "--run-dir"
        problems.append(
            f"{flag} must lie outside Ray's own folders, which are deleted, got {root}; give an absolute path on "
            "storage that lasts and that all nodes see"
        )
    elif kept is None and not in_job and _is_rays(root):
        problems.append(f"a run started in one of Ray's own folders needs --run-dir on storage that lasts, got {root}")
    if in_job and asked.address is None:
        problems.append(
            "a run in a Ray job needs --address, got none: it would start a cluster of its own inside the job; give "
            "--address auto"
        )
    if problems:
        raise ValueError("\n".join(problems))


def _is_rays(root: Path) -> bool:
    parts = root.parts
    in_session = any(a == "ray" and b.startswith("session_") for a, b in pairwise(parts))
    return in_session or "working_dir_files" in parts or any(part.startswith("_ray_pkg_") for part in parts)
