"""Collects the results of Ray tasks, the exceptions that they raised, and the loss of their processes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

import ray
from ray.util.queue import Queue

POLL_S = 1.0  # between looks for what tasks have to say

Work = TypeVar("Work")
Result = TypeVar("Result")
P = ParamSpec("P")
Ended: TypeAlias = tuple[Work, Any, str | None]


def portable_errors(work: Callable[P, Result]) -> Callable[P, Result]:
    """The work of a task, whose exceptions reach the driver with their message.

    Ray cannot hand over an exception that is built from other arguments than those that it passed on to its base class.
    Such a one is raised as the built-in error that it is a kind of.
    """

    @functools.wraps(work)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if _survives_pickle(error):
                raise
            built_in = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
            raise built_in(str(error)) from error

    return guarded


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """A task's result, and when it ran: seconds since 1970, by the clock of its machine."""

    result: Result
    began_s: float
    ended_s: float


def timed(work: Callable[P, Result]) -> Callable[P, Timed[Result]]:
    """The work of a task, which also tells when it ran: the driver cannot know when it left Ray's queue."""

    @functools.wraps(work)
    def measured(*args: P.args, **kwargs: P.kwargs) -> Timed[Result]:
        began_s = time.time()
        return Timed(work(*args, **kwargs), began_s, time.time())

    return measured


def _survives_pickle(error: Exception) -> bool:
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))  # type: ignore[no-untyped-call]
    except Exception:  # whatever the class raises where it is called with the wrong arguments
        return False
    return True


def as_they_end(under_way: Mapping[Any, Work]) -> Iterator[Ended[Work]]:
    """Yield (item, result, None), or (item, None, error message or how its process was lost), as the task of each item
    ends. Ray has replaced a lost process `max_retries` times by then."""
    waiting = dict(under_way)
    while waiting:
        ready = _wait(list(waiting))
        yield _outcome(waiting.pop(ready), ready)


def in_turn(items: Iterable[Work], start: Callable[[Work], Any], room: int) -> Iterator[Ended[Work]]:
    """As `as_they_end`, of the tasks that `start` starts: `room` of them and one that waits at a time. An iterator may
    therefore drop items that an end has made useless.

    Tasks that run or wait are never cancelled: where the answer of one crosses its cancellation, Ray aborts the driver
    (seen in 2.60; its pull request 54785 describes the race).
    """
    for item, ready in _ends(items, start, room):
        yield _outcome(item, ready)


def results_in_turn(
    items: Iterable[Work], start: Callable[[Work], Any], room: int, lines: Queue, say: Callable[[str], None]
) -> dict[Work, Any]:
    """What the tasks that `start` starts returned, by item, `room` of them and one that waits at a time. What they put
    into `lines` is said as it comes.

    Once one has failed, as in `result_of`, none is started; what it raised is raised after those under way have ended.
    """
    found, failed = dict[Work, Any](), list[Exception]()

    def speak() -> None:
        for line in lines.get_nowait_batch(lines.qsize()):
            say(line)

    for item, ready in _ends((item for item in items if not failed), start, room, speak):
        try:
            found[item] = result_of(ready)
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return found


def _ends(
    items: Iterable[Work], start: Callable[[Work], Any], room: int, meanwhile: Callable[[], None] | None = None
) -> Iterator[tuple[Work, Any]]:
    """Starts the tasks as `in_turn` does, and yields each with its item once it has ended. `meanwhile` is called every
    POLL_S, and before each."""
    left, waiting = iter(items), dict[Any, Work]()
    while True:
        while len(waiting) <= room and (item := next(left, None)) is not None:
            waiting[start(item)] = item
        if not waiting:
            return
        ready = _wait(list(waiting), meanwhile)
        yield waiting.pop(ready), ready


def _wait(waiting: Sequence[Any], meanwhile: Callable[[], None] | None = None) -> Any:
    """The first task that ends."""
    ended: list[Any] = []
    while not ended:
        ended, _ = ray.wait(list(waiting), timeout=None if meanwhile is None else POLL_S)
        if meanwhile is not None:
            meanwhile()
    return ended[0]


def _outcome(item: Work, ready: Any) -> Ended[Work]:
    try:
        return item, ray.get(ready), None
    except ray.exceptions.RayTaskError as error:
        return item, None, str(error.cause)
    except ray.exceptions.RayError as error:  # WorkerCrashedError, OutOfMemoryError, NodeDiedError, ...
        return item, None, _how_it_was_lost(error)


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
