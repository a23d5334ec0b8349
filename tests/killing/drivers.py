"""Runs search/run.py again and again, each time in a process of its own that begins with everything imported.

Reads lines of JSON, {"arguments": [...], "environment": {...}, "log": path}; answers each with the exit code, that of
a signal below 0. A fork of a process that has imported torch and Ray, and started neither, saves each of some twenty
sessions ten seconds of imports.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    import ray.tune  # noqa: F401
    import sitecustomize
    import wandb  # noqa: F401

    import search.pipeline
    import search.stages.run_data  # noqa: F401
    from search.run import app

    gc.freeze()
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.update(asked["environment"])
            sitecustomize.arm()
            sys.argv = [str(Path("search", "run.py")), *asked["arguments"]]
            app()
            os._exit(0)  # not reached: typer exits
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
