"""Checks that an environment has what this project needs, without changing it; needs no package itself.

    /path/to/env/bin/python .ci/check_environment.py [dev]

Exit code 2, with what is missing and the command that installs it, where a dependency of pyproject.toml (with
`dev`, also of its extra) is absent or of another version.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata, util
from pathlib import Path

MODULES = {  # where a package's module is not named like the package
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "import-linter": "importlinter",
}


def problem(requirement: str) -> str | None:
    """What is wrong with the installed package, or None. Another distribution of the same module will do."""
    name = re.split(r"[\[<>=! ]", requirement)[0]
    least, below = re.search(r">=([\d.]+)", requirement), re.search(r"<([\d.]+)", requirement)
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        module = MODULES.get(name, name.replace("-", "_"))
        return None if util.find_spec(module) else f"{requirement} is missing"
    fits = (least is None or release(have) >= release(least[1])) and (
        below is None or release(have) < release(below[1])
    )
    return None if fits else f"{requirement} is needed, got {have}"


def release(version: str) -> tuple[int, ...]:
    """'2.11.0+cu128' -> (2, 11)."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def main(extra: str | None = None) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 any Python may run this
        have = sys.version.split()[0]
        print(f"segsearch: needs Python 3.11 or newer, got {have}; use another environment", file=sys.stderr)
        return 2
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    problems = {requirement: text for requirement in needed if (text := problem(requirement))}
    if problems:
        listed = "\n".join(f"  {text}" for text in problems.values())
        command = " ".join([sys.executable, "-m pip install", *(f"'{requirement}'" for requirement in problems)])
        print(f"segsearch: the environment lacks packages:\n{listed}\ninstall them with\n  {command}", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
