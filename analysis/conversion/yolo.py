"""Reads YOLO segmentation: a text file per image, one polygon a line, in shares of the image's width and height.

Classes and parts come from the data set's YAML file, or from classes.txt and the folders' names. Smaller polygons lie
over larger ones. A line of four numbers is a box, which is an outline where the user says so.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from reprlib import repr as short
from typing import Any

import yaml

from analysis.conversion.input_folder import InputFolder, stem
from analysis.conversion.outlines import rectangle
from analysis.conversion.source import Shape, SourceImage, SourceSet, roles_of
from trainables.bounded_yaml import load_yaml, why_not_yaml
from trainables.data.index import Role

TABLES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
KEYS: Mapping[str, Role] = {"train": "train", "val": "val", "valid": "val", "test": "holdout"}
TOLERANCE = 0.02  # how far beyond the image's rim a polygon may lie


def read_yolo(given: InputFolder) -> SourceSet:
    """The images that the YAML file names, or all. Raises ValueError where there are no class names or no images."""
    table = next((name for name in TABLES if (given.root / name).is_file()), None)
    content = _table(given, table) if table else {}
    names = _names(given, table, content)
    if any(content.get(key) for key in KEYS):
        roles = _listed(given, str(table), content)
    else:
        under = "images/" if (given.root / "images").is_dir() else ""
        roles = roles_of(name for name in given.images() if name.startswith(under))
    _refuse_lone_labels(given)
    if not roles and not given.findings.errors:
        raise ValueError(f"{given.root}: holds no image; name the folder that holds images and labels")
    return SourceSet(_images(given, roles, names), labels=tuple(names.values()), stacked=False)


def _table(given: InputFolder, name: str) -> dict[str, Any]:
    try:
        content = load_yaml(given.text(name))
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: is not valid YAML: {why_not_yaml(error)}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: must be a mapping with `names`, got {short(content)}")
    return content


def _names(given: InputFolder, table: str | None, content: dict[str, Any]) -> dict[int, str]:
    """Class names by their numbers."""
    found, source = content.get("names"), str(table)
    if found is None:
        listed = next((name for name in NAME_LISTS if (given.root / name).is_file()), None)
        if listed is None:
            raise ValueError(
                f"{given.root}: YOLO's class names are under `names` in data.yaml, or a name a line in classes.txt; "
                "add either"
            )
        source, found = listed, [line.strip() for line in given.text(listed).splitlines() if line.strip()]
    pairs = dict(enumerate(found)) if isinstance(found, list) else found
    if not isinstance(pairs, dict) or not pairs:
        raise ValueError(f"{source}: names must be a list, or a mapping from numbers to names, got {short(found)}")
    wrong = [key for key, name in pairs.items() if type(key) is not int or not isinstance(name, str) or not name]
    if wrong:
        raise ValueError(f"{source}: names must be text by whole number, got {wrong[0]!r}: {short(pairs[wrong[0]])}")
    if len(set(pairs.values())) < len(pairs):
        raise ValueError(f"{source}: a name is there twice in {short(list(pairs.values()))}; give each class its own")
    if content.get("nc", len(pairs)) != len(pairs):
        raise ValueError(f"{source}: nc is {short(content['nc'])}, and names has {len(pairs)}; correct either")
    return dict(sorted(pairs.items()))


def _listed(given: InputFolder, table: str, content: dict[str, Any]) -> dict[str, Role]:
    """The role of each image in the folders and list files that the YAML file names."""
    roles: dict[str, Role] = {}
    for key, role in KEYS.items():
        entries = content.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            place = _place(given, entry, content.get("path"))
            if place is None:
                given.findings.error(
                    f"{table}: {key}: nothing at {short(entry)} in {given.root}; correct it, or leave {key} out"
                )
                continue
            under = "" if place == "." else f"{place}/"
            found = [name for name in given.images() if name.startswith(under)]
            if (given.root / place).is_file():
                found = _from_list(given, place)
            for name in found:
                if roles.setdefault(name, role) != role:
                    given.findings.error(f"{table}: {name} is under {key} and under another key; list it once")
    return roles


def _place(given: InputFolder, entry: object, base: object) -> str | None:
    """A folder or list file in the folder that is converted. Exports name it from their author's disk, or from a folder
    above (../train/images): what of the path lies in the folder counts."""
    if not isinstance(entry, str) or not entry:
        return None
    prefixes = [base] if isinstance(base, str) and base else []
    for prefix in [*prefixes, "."]:
        name = posixpath.normpath(posixpath.join(prefix, entry))
        while name.startswith("../"):
            name = name[3:]
        if name != ".." and not name.startswith("/") and (given.root / name).exists():
            return name if given.path_of(name, "data.yaml") is not None else None
    return None


def _from_list(given: InputFolder, source: str) -> list[str]:
    """The images in a list file, a path a line, from the file's own folder or the folder that is converted."""
    try:
        lines = [line.strip() for line in given.text(source).splitlines() if line.strip()]
    except ValueError as error:
        given.findings.error(f"{source}: {error}")
        return []
    folder = PurePosixPath(source).parent.as_posix()
    from_list = (posixpath.normpath(posixpath.join(folder, line)) for line in lines)
    from_root = (posixpath.normpath(line) for line in lines)
    images = frozenset(given.images())
    return [one if one in images else other for one, other in zip(from_list, from_root, strict=True)]


def _images(given: InputFolder, roles: Mapping[str, Role], names: Mapping[int, str]) -> Iterator[SourceImage]:
    for name, role in roles.items():
        source = _label_file(name)
        file = given.image(name, name)
        if file is None:
            continue
        lines: list[str] = []
        if (given.root / source).is_file():
            try:
                lines = [line for line in given.text(source).splitlines() if line.strip()]
            except ValueError as error:
                given.findings.error(f"{source}: {error}")
        size = file.height, file.width
        yield SourceImage(name, source, role, *size, tuple(_shapes(given, source, lines, names, size)))


def _refuse_lone_labels(given: InputFolder) -> None:
    """Text files in folders called `labels` that belong to no image."""
    known = {_label_file(name) for name in given.images()} | set(NAME_LISTS)
    for name in given.files({".txt"}):
        if "labels" in PurePosixPath(name).parts[:-1] and name not in known:
            given.findings.error(f"{name}: has no image; add the image, or take the labels out")


def _label_file(image: str) -> str:
    """The text file of an image: in `labels` where that is in the last folder called `images`, else beside it."""
    folders = list(PurePosixPath(image).parts)
    if "images" in folders[:-1]:
        folders[len(folders) - 2 - folders[-2::-1].index("images")] = "labels"
    return f"{stem('/'.join(folders))}.txt"


def _shapes(
    given: InputFolder, source: str, lines: list[str], names: Mapping[int, str], size: tuple[int, int]
) -> Iterator[Shape]:
    for n, line in enumerate(lines, start=1):
        try:
            number, *shares = _numbers(line)
            if number not in names:
                raise ValueError(f"class {number:g} is not among the names, which are {short(list(names))}")
            yield Shape(names[int(number)], [_outline(shares, size, boxes=given.boxes)], f"line {n}")
        except ValueError as error:
            given.findings.error(f"{source}: line {n}: {error}")


def _numbers(line: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError as error:
        raise ValueError(f"must be a class number and coordinates, got {short(line)}; export it again") from error


def _outline(shares: list[float], size: tuple[int, int], *, boxes: bool) -> list[float]:
    """A line's polygon in px."""
    if any(not -TOLERANCE <= share <= 1 + TOLERANCE for share in shares):
        raise ValueError(
            f"coordinates must be shares of the image's sides, from 0 to 1, got {short(shares)}; divide px by them"
        )
    height, width = size
    if len(shares) == 4:
        if not boxes:
            raise ValueError("a box is seldom an object's outline; give --boxes to take it as one, or redraw it")
        x, y, columns, rows = shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height
        return rectangle(x - columns / 2, y - rows / 2, x + columns / 2, y + rows / 2)
    if len(shares) < 6 or len(shares) % 2:
        raise ValueError(f"a polygon needs three or more pairs of coordinates, got {len(shares)} numbers")
    return [share * (height if n % 2 else width) for n, share in enumerate(shares)]
