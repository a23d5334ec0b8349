"""Groups of images: what the card's regular expression finds in their names.

Python's `re` can take longer than the universe for 30 characters, and cannot be stopped from outside. So all names are
matched at once by a process of its own, which is given a time limit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence

MAX_PATTERN = 1000  # characters
LIMIT_S = 10.0  # for the process to start, and for every name ...
LIMIT_S_PER_NAME = 1e-4  # ... some hundred times what a plain pattern takes
MATCH = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
pattern, names = json.load(sys.stdin)
find = re.compile(pattern).search
found = map(find, names)
json.dump([m and ((m.group(1) if m.re.groups else None) or m.group(0)) for m in found], sys.stdout)
"""


def check_pattern(pattern: str) -> None:
    """Raises ValueError for what is no regular expression, or a very long one."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"group must have at most {MAX_PATTERN} characters, got {len(pattern)}; write a shorter one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that a later Python may read differently
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"group must be a regular expression: {error}; correct it") from error


def groups_of(pattern: str, image_ids: Sequence[str], *, limit_s: float = LIMIT_S) -> list[str | None]:
    """The group of each image: what the first brackets of `pattern` match, or all of its match; None without one.

    Raises ValueError where the pattern takes longer than `limit_s` and a tenth of a millisecond per name.
    """
    check_pattern(pattern)
    limit = limit_s + LIMIT_S_PER_NAME * len(image_ids)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", MATCH],
            input=json.dumps([pattern, list(image_ids)]),
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"group must be a regular expression that matches quickly, got {pattern!r:.80}, which was not done with "
            f"{len(image_ids)} names in {limit:.0f} s; write it without repeats inside repeats, such as (a+)+"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"group must be a regular expression that can be matched, got {pattern!r:.80}: {last:.200}")
    groups: list[str | None] = json.loads(done.stdout)
    return groups
