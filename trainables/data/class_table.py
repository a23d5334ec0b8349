"""The classes of label masks: which pixel value, palette index or colour means which class.

A card gives them as a list (the position is the value), as a mapping from values to names, or as a file of either. A
colour is written '#804080' or '128, 64, 128'; several values may have one name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from trainables.bounded_yaml import load_yaml, read_bounded, why_not_yaml
from trainables.files import user_path
from trainables.plain_json import parse_json
from trainables.recipe.config import Config

MAX_VALUE = 2**16 - 1  # of a mask of one channel
HEX_COLOUR = re.compile(r"#([0-9a-fA-F]{6})")
RGB_COLOUR = re.compile(r"(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})")
CVAT_LINE = re.compile(r"([^#:][^:]*):(\d{1,3}),(\d{1,3}),(\d{1,3}):.*")  # labelmap.txt of its mask export
EXAMPLE = "e.g. classes: [background, paper] or {0: background, 128: cell} or {'#804080': road}"


class ClassTable(Config):
    """Class names by value, in the order of the card. A colour's value is 0xRRGGBB."""

    entries: tuple[tuple[int, str], ...]
    colours: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Each name once, in order."""
        return tuple(dict.fromkeys(name for _, name in self.entries))

    def as_mapping(self) -> dict[int | str, str]:
        """What a card would say under `classes`."""
        return {shown(value, colours=self.colours): name for value, name in self.entries}


def shown(value: int, *, colours: bool) -> int | str:
    """A value as a card writes it."""
    return f"#{value:06x}" if colours else value


def read_table(given: Any, base: Path, *, first: int = 0) -> ClassTable:
    """The table of `classes` as a card gives it; a list begins at the value `first`, a file lies under `base`.

    Raises ValueError with every entry that is wrong.
    """
    source = "classes"
    if isinstance(given, str):
        try:
            path = base / user_path(given)
        except ValueError as error:
            raise ValueError(f"classes: {error}; {EXAMPLE}") from error
        source, given = f"classes: {path}", _from_file(path)
    if isinstance(given, list):
        faults = [f"{source}: {name!r} is there twice; keep one" for name in _repeated(given)]
        pairs = list(enumerate(given, start=first))
    elif isinstance(given, dict):
        if first:
            raise ValueError(
                f"{source}: reduce_zero_label needs the classes as a list, whose first name has the value 1, got a "
                "mapping, which names its values itself; give 0 a name that `ignore` lists, and leave the key out"
            )
        faults, pairs = [], list(given.items())
    else:
        raise ValueError(f"{source} must be a list, a mapping or a file, got {given!r:.60}; {EXAMPLE}")
    values = [_value(key) for key, _ in pairs]
    for (key, name), value in zip(pairs, values, strict=True):
        if value is None:
            faults.append(
                f"{source}: {key!r} is neither a value from 0 to {MAX_VALUE} nor a colour '#rrggbb'; {EXAMPLE}"
            )
        if not isinstance(name, str) or not name.strip():
            faults.append(f"{source}: the name of {key!r} must be text, got {name!r}; put it in quotes")
    if len({value for value in values if value is not None}) < len(values) - values.count(None):
        faults.append(f"{source}: a value or colour is there twice, in two spellings; keep one")
    kinds = {colour for value in values if value is not None for _, colour in (value,)}
    if len(kinds) > 1:
        faults.append(f"{source}: values and colours are mixed; use either, as the masks have one channel or three")
    if not pairs:
        faults.append(f"{source} is empty; {EXAMPLE}")
    if faults:
        raise ValueError("\n".join(faults))
    entries = tuple((value[0], name.strip()) for value, (_, name) in zip(values, pairs, strict=True) if value)
    return ClassTable(entries=entries, colours=kinds == {True})


def _value(key: object) -> tuple[int, bool] | None:
    """A key as its value and whether that is a colour; None where it is neither."""
    if isinstance(key, int) and not isinstance(key, bool):
        return (key, False) if 0 <= key <= MAX_VALUE else None
    text = str(key).strip().strip("()[]")
    if text.isascii() and text.isdigit():
        return _value(int(text[:9]))
    if found := HEX_COLOUR.fullmatch(text):
        return int(found[1], 16), True
    if found := RGB_COLOUR.fullmatch(text):
        return _packed(*(int(channel) for channel in found.groups()))
    return None


def _packed(red: int, green: int, blue: int) -> tuple[int, bool] | None:
    return ((red << 16) | (green << 8) | blue, True) if max(red, green, blue) < 256 else None


def _repeated(names: list[Any]) -> list[str]:
    known = [name for name in names if isinstance(name, str)]
    return sorted({name for name in known if known.count(name) > 1})


def _from_file(path: Path) -> Any:
    """A list or mapping: YAML or JSON by the suffix, CVAT's labelmap.txt, else a name a line."""
    try:
        if not path.is_file():
            raise ValueError("no such file")
        text = read_bounded(path)
        if path.suffix.lower() == ".json":
            return parse_json(text)
        if path.suffix.lower() in (".yaml", ".yml"):
            return load_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = why_not_yaml(error) if isinstance(error, yaml.YAMLError) else str(error)
        raise ValueError(f"classes: the file {path} cannot be read ({reason}); correct classes in the card") from error
    lines = [line.strip() for line in text.splitlines()]
    coloured = [CVAT_LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    if coloured and all(coloured):
        return {", ".join(found.groups()[1:]): found[1] for found in coloured if found}
    return [line for line in lines if line]
