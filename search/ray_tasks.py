"""Ray tasks that may fail one by one.

Enters: the tasks under way, each with what it works on. Leaves: results as they come; a failed task is an error's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ray

Work = TypeVar("Work")


def as_they_end(under_way: Mapping[Any, Work]) -> Iterator[tuple[Work, Any, str | None]]:
    """Yield (what it worked on, its result, None), or (what it worked on, None, what it raised), as each task ends."""
    waiting = dict(under_way)
    while waiting:
        [ready], _ = ray.wait(list(waiting))
        work = waiting.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            yield work, None, str(error.cause)
        else:
            yield work, result, None
