"""Every command that the documentation shows is one of this version: its subcommand and its options exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from search.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SCRIPT = re.compile(r"^python (?:search|analysis)/(\w+)\.py")


def shown(text: str) -> Iterator[str]:
    """The lines of fenced blocks, with what a backslash continues, and the spans of code, that call this project."""
    fences = re.findall(r"(?ms)^[ ]*```\w*\n(.*?)^[ ]*```", text)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^[ ]*```.*?^[ ]*```", "", text))
    for line in [line for block in fences for line in block.replace("\\\n", " ").splitlines()] + spans:
        command = re.sub(r"^([A-Z_]+=\S+ )+", "", line.strip().removeprefix("$ "))
        if command.startswith("segsearch ") or SCRIPT.match(command):
            yield command


def resolve(command: str) -> tuple[Any, list[str]]:
    """The subcommand and what it is given."""
    words = shlex.split(SCRIPT.sub(r"segsearch \1", command), comments=True)[1:]
    found: Any = typer.main.get_command(app)
    while words and hasattr(found, "commands"):  # a group
        assert words[0] in found.commands, f"no subcommand {words[0]} in: {command}"
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_their_options(page: Path) -> None:
    problems = []
    for command in shown(page.read_text(encoding="utf-8")):
        found, words = resolve(command)
        known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
        asked = {word.partition("=")[0] for word in words if word.startswith("--")}
        problems += [f"{option} in: {command}" for option in sorted(asked - known - {"--help"})]
    assert not problems


def test_the_pages_show_commands() -> None:
    assert sum(len(list(shown(page.read_text(encoding="utf-8")))) for page in PAGES) > 50
