"""The fenced blocks of the documentation in document order, and the commands in a block of shell as bash reads them:
loops unrolled, quotes and continued lines resolved."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
LOG = ROOT / "docs" / "LOG.md"  # its commands made the figures beside them, on data that is not part of this repository
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if page != LOG and re.search(r"(?m)^```(?:sh|bash|console|python)$", page.read_text(encoding="utf-8"))
]
FENCE = re.compile(r"(?ms)^([ ]*)```(\w*)\n(.*?)^\1```[ ]*$")
# with nothing in PATH, bash hands every program with its words to this function; `source` is its own
RECORDER = r"""
PATH=/nowhere
command_not_found_handle() { printf '%s\0' "$@" $'\1' >&3; }
source() { command_not_found_handle source "$@"; }
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and what is in it."""

    language: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    for _, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        yield Block(language, text)


def commands_in(block: str) -> list[list[str]]:
    """The words of every command that the block would run."""
    script = f"exec 3>&1 >/dev/null\n{RECORDER}\n{block}"
    with TemporaryDirectory() as folder:  # where a redirected command's file is made
        bash = ["/bin/bash", "-eu", "-c", script]
        done = subprocess.run(bash, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{block}"
    return [command.split("\0")[:-1] for command in done.stdout.split("\1\0")[:-1]]
