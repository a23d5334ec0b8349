"""Collects the results of Ray tasks, and the exceptions that they raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ray

Work = TypeVar("Work")
Result = TypeVar("Result")


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
        except ray.exceptions.RayError as error:  # its worker or node was lost too often, or it was called off
            yield work, None, f"{type(error).__name__}: {error}"
        else:
            yield work, result, None


def result_of(waiting: ray.ObjectRef[Result]) -> Result:
    """What the task returned; raises what the job raised."""
    try:
        result: Result = ray.get(waiting)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return result
