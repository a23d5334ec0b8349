"""Run every benchmark of this folder in a process of its own and write benchmarks.json.

    make bench        # or: python tests/benchmarks/run_all.py [NAME ...]

A benchmark is a file bench_<name>.py with `run() -> dict`. A figure is a median or a ratio measured within
one run; nothing is asserted, since these figures belong to the machine that made them.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OUTPUT = Path("benchmarks.json")


def machine() -> dict[str, Any]:
    return {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}


def run_one(path: Path) -> Any:
    """The benchmark's result, or its error's last line: one failure must not hide the others' figures."""
    result = Path(f".{path.stem}.json")
    finished = subprocess.run([sys.executable, __file__, "--one", str(path), str(result)], check=False)
    if finished.returncode:
        return {"error": f"{path.name} ended with exit code {finished.returncode}"}
    value = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    return value


def main(names: list[str]) -> int:
    if names[:1] == ["--one"]:
        value = runpy.run_path(names[1])["run"]()
        Path(names[2]).write_text(json.dumps(value), encoding="utf-8")
        return 0
    results: dict[str, Any] = {"machine": machine()}
    for path in sorted(FOLDER.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        if names and name not in names:
            continue
        print(f"\n== {name}", flush=True)
        results[name] = run_one(path)
    temporary = OUTPUT.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(OUTPUT)
    return int(any("error" in value for value in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
