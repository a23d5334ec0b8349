"""Ends a run at one exact moment: before or after the n-th call of a named function, in whatever process makes it.

Python imports this module by itself where this folder is on PYTHONPATH, so Ray's workers have it as the driver does.
Only the driver gets SIGKILL; another process that came to the moment stops there until Ray ends it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

MOMENT, DRIVER = "TEST_KILL_MOMENT", "TEST_KILL_DRIVER"  # JSON of `Moment`'s fields; the driver's process


def kill_driver() -> None:
    os.kill(int(os.environ[DRIVER]), signal.SIGKILL)
    while True:
        time.sleep(1)


def ended_at(call: Callable[..., Any], when: str, nth: int, about: str) -> Callable[..., Any]:
    """`call`, which ends the run at its `nth` call whose arguments, as text, hold `about`."""
    count = 0

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        counts = about in repr((args, kwargs)) if about else True
        count += counts
        reached = counts and count == nth
        if reached and when == "before":
            kill_driver()
        result = call(*args, **kwargs)
        if reached:
            kill_driver()
        return result

    return wrapped


def patch(module: ModuleType, path: str, when: str, nth: int, about: str) -> None:
    *outer, name = path.split(".")
    owner: Any = functools.reduce(getattr, outer, module)
    setattr(owner, name, ended_at(getattr(owner, name), when, nth, about))


class PatchOnImport(importlib.abc.MetaPathFinder):
    """Patches a module as soon as it was imported, before others take names from it."""

    def __init__(self, module: str, then: Callable[[ModuleType], None]) -> None:
        self.module, self.then = module, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            self.then(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def arm() -> None:
    """Set the trap that the environment asks for. The first process to do so is the driver."""
    if MOMENT not in os.environ:
        return
    os.environ.setdefault(DRIVER, str(os.getpid()))
    moment = json.loads(os.environ[MOMENT])
    module, _, path = moment.pop("call").partition(":")
    then = functools.partial(patch, path=path, **moment)
    if module in sys.modules:
        then(sys.modules[module])
    else:
        sys.meta_path.insert(0, PatchOnImport(module, then))


arm()
