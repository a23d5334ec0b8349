"""The data card: a short YAML file that describes a data set.

Reading it opens neither images nor COCO files. Problems of the data set are collected in `Findings` and raised as
`DataProblems`. Paths in the card are relative to `root`, and `root` is relative to the card's own folder (its
default); those of a `DataCard` are absolute.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, field_validator

from trainables.recipe.config import Config

MAX_LISTED = 50
FILE_KEYS = ("train", "val", "holdout", "unlabelled")


class DataProblems(ValueError):
    """Everything that is wrong with a data set; `str()` lists it, one problem a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        listed = self.problems[:MAX_LISTED]
        left = len(self.problems) - len(listed)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n".join([f"{count} in the data:", *listed, *([f"... and {left} more"] if left else [])])


@dataclass
class Findings:
    """Errors in words, and warnings by file and rule with the ids that they concern."""

    errors: list[str] = field(default_factory=list)
    warnings: dict[tuple[str, str], list[object]] = field(default_factory=dict)

    def error(self, text: str) -> None:
        self.errors.append(text)

    def warn(self, file: str, rule: str, item: object) -> None:
        self.warnings.setdefault((file, rule), []).append(item)

    def counted(self) -> dict[str, int]:
        """'train.json: polygon without area (3, 17, 20, ...)' -> 12."""
        counts = {}
        for (file, rule), items in self.warnings.items():
            first = ", ".join(str(item) for item in items[:5]) + (", ..." if len(items) > 5 else "")
            counts[f"{file}: {rule} ({first})"] = len(items)
        return counts


class DataCard(Config):
    """A data set in one page: which COCO files it has, and the rules by which they are read."""

    name: str
    root: Path  # every image lies under it
    train: Path
    val: Path | None = None  # carved from train where absent
    holdout: Path | None = None  # carved from train where absent; sealed until the verdict
    unlabelled: Path | None = None
    ignore: tuple[str, ...] = ()  # categories whose pixels count for neither loss nor score
    background: bool = True  # class 0 is 'Background': the pixels under no annotation. False: those are ignored
    turns: bool = False  # the scene has no up (seen from above, under a lens): any quarter turn of it is as likely
    group: str | None = None  # regex on file_name; images with the same match stay on one side of a split
    licence: str | None = None

    @field_validator("group")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"group must be a regular expression: {error}") from error
        return pattern

    def files(self) -> dict[str, Path]:
        """The COCO files that the card names, by role, in the order of FILE_KEYS."""
        named = {key: getattr(self, key) for key in FILE_KEYS}
        return {key: path for key, path in named.items() if path is not None}

    def group_of(self, file_name: str) -> str | None:
        """The group of an image: what the first brackets of `group` match, or all of its match.

        The file_name itself where the card has no `group`; None where `group` does not match.
        """
        if self.group is None:
            return file_name
        match = re.search(self.group, file_name)
        if match is None:
            return None
        return (match.group(1) if match.re.groups else None) or match.group(0)


def read_card(path: Path) -> DataCard:
    """Read and check a card; ValueError names the file, the rule, the value and the remedy."""
    path = path.expanduser().absolute()
    values = _load(path)
    _refuse_unknown_keys(path, values)
    if "train" not in values:
        raise ValueError(f"{path}: train is required; name the COCO file to train on, e.g. train: train.json")
    values.setdefault("name", path.parent.name)
    root = _absolute(path, "root", values.get("root", "."), path.parent)
    if not root.is_dir():
        raise ValueError(f"{path}: root must be a folder, got {root}; correct root or leave it out")
    values["root"] = root
    for key in FILE_KEYS:
        if key in values:
            values[key] = _absolute(path, key, values[key], root)
    try:
        card = DataCard.model_validate(values)
    except ValidationError as error:
        raise ValueError(_in_words(path, error)) from error
    _refuse_shared_files(path, card)
    return card


def _load(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise ValueError(f"{path}: a data card is a YAML file, got a folder; give its data.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the data card cannot be read ({error}); check the path") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: the data card is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a data card is a mapping such as 'train: train.json', got {type(values).__name__}")
    return {str(key): value for key, value in values.items() if value is not None}  # `val:` alone means absent


def _refuse_unknown_keys(path: Path, values: dict[str, Any]) -> None:
    known = list(DataCard.model_fields)
    faults = []
    for key in values:
        if key not in known:
            faults.append(f"{path}: unknown key {key!r}{near(key, known)}")
    if faults:
        raise ValueError("\n".join(faults))


def near(name: str, known: list[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known)}"


def _absolute(path: Path, key: str, value: Any, base: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}: {key} must be a path, got {value!r}")
    return (base / Path(value).expanduser()).resolve()


def _in_words(path: Path, error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        lines.append(f"{path}: {where}: {fault['msg'].removeprefix('Value error, ')}, got {fault['input']!r}")
    return "\n".join(lines)


def _refuse_shared_files(path: Path, card: DataCard) -> None:
    roles: dict[Path, str] = {}
    for role, file in card.files().items():
        if file in roles:
            raise ValueError(
                f"{path}: {roles[file]} and {role} must be different files, got {file} for both; "
                f"leave {role} out to have it carved from train"
            )
        roles[file] = role
