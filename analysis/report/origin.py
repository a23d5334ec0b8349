"""Where a run's numbers come from, as the report says it: command, code, versions, seed, times, recipes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class StageTime:
    """A stage that is done; `seconds` of the session that ended it, None where a run of before did not note them."""

    name: str
    ended: str  # ISO 8601
    seconds: float | None


@dataclass(frozen=True)
class Shipped:
    """A member of what ships: its whole recipe as YAML, and how much of the vote it has."""

    trial: str
    share: float
    recipe: str


@dataclass(frozen=True)
class Origin:
    """What repeats a run."""

    seed: int | None = None
    commit: str = ""  # with a + where the checkout was changed
    versions: Mapping[str, str] | None = None
    fingerprints: Mapping[str, str] | None = None  # of what
    stages: Sequence[StageTime] = ()
    recipes: Sequence[Shipped] = ()
    commands: Sequence[tuple[str, str]] = ()  # what it does, the command


def typed(argv: Sequence[str]) -> str:
    """The command as a shell takes it; of the program its name alone where it is no script."""
    program, *words = argv or ("segsearch", "run")
    named = ["python", program] if program.endswith(".py") else [PurePath(program).name]
    return shlex.join([*named, *words])


def commands(root: str, card: str, argv: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """What each part of the report is repeated with, and what comes after it."""
    run, data = shlex.quote(root), shlex.quote(card)
    suspects = shlex.quote(f"{root}/suspects")
    return [
        ("Label images with what ships", f"segsearch predict --bundle {shlex.quote(root + '/bundle')} --images photos/ "
         "--out predictions/"),
        ("The whole run", typed(argv)),
        ("What is not done yet of it", f"segsearch run --resume {run}"),
        ("This page", f"segsearch report --run {run}"),
        ("Beside another run", f"segsearch report --compare {run} OTHER_RUN"),
        ("Early stopping", f"segsearch audit {run}"),
        ("Labels that look wrong", f"segsearch cleanse --run {run} --out {suspects}"),
        ("The data", f"segsearch eda --data {data} --out eda.html"),
        ("Split and drift", f"segsearch split --data {data} --out split.json --seed {seed}"),
        ("Another rule than the verdict's", f"segsearch export --run {run} --rule soft_vote"),
        ("A submission", f"segsearch submission write --bundle {shlex.quote(root + '/bundle')} --out submission "
         "--expected sample_submission.csv --images test_images"),
    ]  # fmt: skip
