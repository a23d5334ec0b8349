"""Collects the results of Ray tasks, the exceptions that they raised, and the loss of their processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ray

Work = TypeVar("Work")
Result = TypeVar("Result")


def as_they_end(under_way: Mapping[Any, Work]) -> Iterator[tuple[Work, Any, str | None]]:
    """Yield (what it worked on, its result, None), or (what it worked on, None, what it raised or how its process was
    lost), as each task ends. Ray has replaced a lost process `max_retries` times by then."""
    waiting = dict(under_way)
    while waiting:
        [ready], _ = ray.wait(list(waiting))
        work = waiting.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            yield work, None, str(error.cause)
        except ray.exceptions.RayError as error:  # WorkerCrashedError, OutOfMemoryError, NodeDiedError, ...
            yield work, None, _how_it_was_lost(error)
        else:
            yield work, result, None


def result_of(waiting: ray.ObjectRef[Result]) -> Result:
    """What the task returned; raises what the job raised, and ValueError where its process was lost on every try."""
    try:
        result: Result = ray.get(waiting)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"a task needs a process that lives to its end, {_how_it_was_lost(error)}; free memory on that machine, "
            "then resume the run"
        ) from error
    return result


def _how_it_was_lost(error: ray.exceptions.RayError) -> str:
    """A sentence with Ray's reason; the rest of its text names log files of the node."""
    reason = (str(error).strip() or "no reason was given").splitlines()[0]
    return f"its process was lost on every try, perhaps for want of memory ({type(error).__name__}: {reason})"
