"""From the command line's values to a run that is ready to start: everything that can be refused is refused here.

Order: the space, the data, the run directory, only then Ray; so a mistake costs a second, not a GPU.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.run_dir import RunDir, existing_run_dir, new_run_dir, read_json, write_json
from search.space.problems import SpaceProblems
from search.space.space import Space, load_space, profile_names

if TYPE_CHECKING:
    from search.stages.run_data import Data
from search.stages.stage import Stage

CPU_PROFILE = "cpu"
SYNTHETIC_IMAGES = 240
SYNTHETIC_PX = 128
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


class Interrupted(RuntimeError):
    """The run was stopped by hand; everything finished is kept."""

    def __init__(self, root: Path) -> None:
        super().__init__(f"stopped; go on with: python search/run.py --resume {root}")


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


def start(
    asked: RunArguments, *, now: Callable[[], datetime], argv: tuple[str, ...], say: Callable[[str], None]
) -> None:
    """Run what was asked to its end.

    Raises ValueError (rule, value, remedy) for everything that the user can mend, before a trial starts, and
    `Interrupted` where it was stopped by hand.
    """
    resumed = _resumed(asked) if asked.resume else None
    spaces = {} if resumed else _spaces(asked)
    card = Path(resumed.record["card"]) if resumed else _card(asked, say)

    import ray  # heavy imports only now, after the space was checked

    from search.engine.tuner import SearchInterrupted, start_ray
    from search.stages import pipeline, report, run_data, stage

    index, cache = run_data.read_data(card, asked.cache_dir, say)
    run = resumed.run if resumed else new_run_dir(Path(asked.space or "").stem, now(), asked.run_dir)
    say(f"run directory: {run.root}")
    url = start_ray(asked.address, dashboard=asked.dashboard)
    try:
        if url:
            say(f"Ray dashboard: {url} (where it asks for a token: ray get-auth-token)")
        num_gpus = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
        space = resumed.space if resumed else _chosen(asked, spaces, num_gpus, say)
        for line in space.warnings():
            say(f"warning: {line}")
        space.check_images([(image.height, image.width) for image in index.images if image.role == "train"])
        run_data.check_turns(card, space.options)
        split = run_data.split_data(index, cache, space.options, say)
        data = run_data.Data(index, split, cache, asked.cache_dir)
        if resumed:
            _same_data(resumed.record, data)
        else:
            run.space_yaml.write_text(space.to_yaml(), encoding="utf-8")
            write_json(run.data_json, run_data.describe_data(data, card))
            write_json(run.run_json, _first_record(asked, space, card, data, now(), argv))
        pipeline.run_all(stage.Context(run, space, data, say, now), asked.until)
        if asked.until is Stage.report:
            report.summary(run, say)
        else:
            say(f"stopped after {asked.until}, as asked; go on with: python search/run.py --resume {run.root}")
    except (KeyboardInterrupt, SearchInterrupted):
        raise Interrupted(run.root) from None
    except Exception as error:
        if not is_disk_full(error):
            raise
        free_mib = shutil.disk_usage(run.root).free / 2**20
        raise ValueError(
            f"the run needs room on the disk of {run.root}, got {free_mib:.0f} MiB free; free some, then go on with: "
            f"python search/run.py --resume {run.root}"
        ) from error
    finally:
        ray.shutdown()


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, however SQLite, Ray or a tracker dressed it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in ("No space left on device", "disk is full")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _spaces(asked: RunArguments) -> dict[str | None, Space | SpaceProblems]:
    """The space with each profile that this run might take, checked before Ray starts.

    Which is taken is known only with the cluster: so problems of one alone are kept with it, and those of all are
    raised here.
    """
    if asked.space is None:
        raise ValueError("a run needs a space, got none; give --space convnext.yaml, or --resume DIR")
    spaces: dict[str | None, Space | SpaceProblems] = {}
    may_take_cpu = asked.profile is None and CPU_PROFILE in profile_names(asked.space)
    for profile in (asked.profile, CPU_PROFILE) if may_take_cpu else (asked.profile,):
        try:
            spaces[profile] = load_space(asked.space, profile=profile, overrides=asked.assignments)
        except SpaceProblems as problems:
            spaces[profile] = problems
    broken = [space for space in spaces.values() if isinstance(space, SpaceProblems)]
    if len(broken) == len(spaces):
        raise broken[-1]
    return spaces


def _chosen(
    asked: RunArguments, spaces: dict[str | None, Space | SpaceProblems], num_gpus: float, say: Callable[[str], None]
) -> Space:
    """The space with the profile that was asked for, or with 'cpu' where there is one and no GPU."""
    profile = asked.profile
    if profile is None and num_gpus == 0 and CPU_PROFILE in spaces:
        say("no GPU in this cluster: taking the space's 'cpu' profile (choose with --profile)")
        profile = CPU_PROFILE
    space = spaces[profile]
    if isinstance(space, SpaceProblems):
        raise space
    return space


def _card(asked: RunArguments, say: Callable[[str], None]) -> Path:
    """The data card that was asked for, or that of the synthetic set, drawn on first use."""
    if asked.data:
        return asked.data.expanduser().resolve()
    from trainables.data.synthetic.dataset import write_synthetic

    say(f"no --data: using the built-in synthetic trash scenes ({SYNTHETIC_IMAGES} images of {SYNTHETIC_PX} px)")
    root = asked.cache_dir / f"synthetic-{SYNTHETIC_IMAGES}-{SYNTHETIC_PX}"
    return write_synthetic(root, num_images=SYNTHETIC_IMAGES, image_px=SYNTHETIC_PX, seed=0)


@dataclass(frozen=True)
class _Resumed:
    run: RunDir
    record: dict[str, Any]  # run.json
    space: Space


def _resumed(asked: RunArguments) -> _Resumed:
    """The run to go on with; what was typed again must agree with what was asked at first.

    Its space is read from the run, as it was resolved then: the file that it came from may have changed since.
    """
    assert asked.resume is not None
    run = existing_run_dir(asked.resume)
    record = read_json(run.run_json)
    first = record["asked"]
    typed = _arguments_given(asked)
    changed = [
        f"--{'set' if key == 'assignments' else key}: {value!r}, but the run was started with {first[key]!r}"
        for key, value in typed.items()
        if value and value != first[key] and not (key == "profile" and value == record["profile"])
    ]
    if asked.run_dir:
        changed.append(f"--run-dir: {str(asked.run_dir)!r}, but --resume names the run's directory already")
    if changed:
        raise ValueError(
            "--resume must be given the original arguments; start a new run, or drop these:\n" + "\n".join(changed)
        )
    space = load_space(str(run.space_yaml), profile=None, overrides=())
    return _Resumed(run, record, replace(space, name=record["space"], profile=record["profile"]))


def _arguments_given(asked: RunArguments) -> dict[str, Any]:
    return {
        "space": asked.space,
        "data": str(asked.data.expanduser().resolve()) if asked.data else None,
        "assignments": list(asked.assignments),
        "profile": asked.profile,
    }


def _same_data(record: dict[str, Any], data: Data) -> None:
    for what, found in (("data", data.index.fingerprint), ("split", data.split.fingerprint)):
        if record[f"{what}_fingerprint"] != found:
            raise ValueError(
                f"a resumed run needs the {what} that it began with ({record[f'{what}_fingerprint']}), got {found}; "
                "restore the files or start a new run"
            )


def _first_record(
    asked: RunArguments, space: Space, card: Path, data: Data, now: datetime, argv: tuple[str, ...]
) -> dict[str, Any]:
    """run.json as a run begins: what was asked, what it came to, and on which code."""
    return {
        "format": "segsearch-run/1",
        "command": list(argv),
        "asked": _arguments_given(asked),
        "space": space.name,
        "profile": space.profile,
        "seed": space.options.seed,
        "card": str(card),
        "data_fingerprint": data.index.fingerprint,
        "split_fingerprint": data.split.fingerprint,
        "started": now.isoformat(timespec="seconds"),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "git": _git_state(),
        "stages": {},
    }


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
