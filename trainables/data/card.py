"""The data card: a short YAML file that describes a data set.

Reading it opens neither images nor COCO files, only the file that `classes` may name. Problems of the data set are
collected in `Findings` and raised as `DataProblems`. Paths in the card are relative to `root`, and `root` is relative
to the card's own folder (its default); those of a `DataCard` are absolute.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator

from trainables.bounded_yaml import load_yaml, read_bounded, why_not_yaml
from trainables.data.class_table import MAX_VALUE, ClassTable, read_table
from trainables.data.foreign_formats import foreign_hint
from trainables.data.groups import check_pattern
from trainables.data.index import BACKGROUND
from trainables.files import user_path
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


class CocoPart(Config):
    """A COCO file, and the folder that its file names are relative to."""

    coco: Path
    images: Path | None = None  # None: the card's root, or the file's own folder where the images lie beside it

    @property
    def place(self) -> Path:
        """Where the labels are."""
        return self.coco


class MaskPart(Config):
    """A folder of images, and one of label masks with the same names but for the suffix."""

    images: Path
    masks: Path

    @property
    def place(self) -> Path:
        """Where the labels are."""
        return self.masks


class ImagePart(Config):
    """A folder of images without labels."""

    images: Path

    @property
    def place(self) -> Path:
        """Where the images are."""
        return self.images


Part = CocoPart | MaskPart | ImagePart
PART_FORMS = "a COCO file, {coco: file, images: folder}, {images: folder, masks: folder}, or a list of these"


class DataCard(Config):
    """A data set in one page: where its images and labels are, and the rules by which they are read."""

    name: str
    root: Path  # every image lies under it, or under the folder that a part names
    train: tuple[Part, ...]
    val: tuple[Part, ...] = ()  # carved from train where absent
    holdout: tuple[Part, ...] = ()  # carved from train where absent; sealed until the verdict
    unlabelled: tuple[Part, ...] = ()
    follow_links: bool = False  # symbolic links may lead out of the folder of the images
    classes: ClassTable | None = None  # of masks; COCO files bring their categories
    ignore_index: Annotated[int, Field(ge=0, le=MAX_VALUE)] | None = None  # mask value; None: 255 where it is no class
    reduce_zero_label: bool = False  # mask value 0 is ignored, and the list of classes begins at 1
    ignore: tuple[str, ...] = ()  # classes whose pixels count for neither loss nor score
    background: bool = True  # class 0 is 'Background': the pixels under no annotation. False: those are ignored
    turns: bool = False  # the scene has no up (seen from above, under a lens): any quarter turn of it is as likely
    flip_pairs: tuple[tuple[str, str], ...] | None = None  # classes that change places where an image is mirrored
    group: str | None = None  # regex on image_id; images with the same match stay on one side of a split
    licence: str | None = None

    @field_validator("group")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        check_pattern(pattern or "")
        return pattern

    def parts(self) -> dict[str, tuple[Part, ...]]:
        """The parts that the card names, by role, in the order of FILE_KEYS."""
        named: dict[str, tuple[Part, ...]] = {key: getattr(self, key) for key in FILE_KEYS}
        return {key: parts for key, parts in named.items() if parts}

    def shown(self, path: Path) -> str:
        """A path in messages: short where it lies under the root."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def as_yaml(self) -> dict[str, Any]:
        """The values of a card file that reads as this one."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        if self.classes is not None:
            values["classes"] = list(self.classes.names) if self.reduce_zero_label else self.classes.as_mapping()
        return values


def read_card(path: Path) -> DataCard:
    """Read and check a card; ValueError names the file, the rule, the value and the remedy."""
    written, path = str(path), path.expanduser().absolute()
    values = _load(path, written)
    _refuse_unknown_keys(path, values)
    if "train" not in values:
        raise ValueError(f"{path}: train is required; name the COCO file to train on, e.g. train: train.json")
    values.setdefault("name", path.parent.name)
    root = _folder_of(path, values.get("root", "."))
    if not root.is_dir():
        raise ValueError(f"{path}: root must be a folder, got {root}; correct root or leave it out")
    values["root"] = root
    faults: list[str] = []
    for key in FILE_KEYS:
        if key in values:
            values[key] = _parts(key, values[key], root, faults)
    if not faults:
        _read_mask_rules(values, root, faults)
    if faults:
        raise ValueError("\n".join(f"{path}: {line}" for fault in faults for line in fault.splitlines()))
    try:
        card = DataCard.model_validate(values)
    except ValidationError as error:
        raise ValueError(_in_words(path, error)) from error
    _refuse_shared_places(path, card)
    return card


def _load(path: Path, written: str) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        what = "a folder; give its data.yaml" if path.is_dir() else "a device or pipe; check the path"
        raise ValueError(f"{path}: a data card is a YAML file, got {what}{foreign_hint(path, written)}")
    try:
        values = load_yaml(read_bounded(path))
    except yaml.YAMLError as error:
        reason, hint = why_not_yaml(error), foreign_hint(path, written)
        raise ValueError(f"{path}: the data card is not valid YAML: {reason}{hint}") from error
    except (OSError, ValueError) as error:
        hint = foreign_hint(path, written)
        raise ValueError(f"{path}: the data card cannot be read ({error}); check the path{hint}") from error
    if not isinstance(values, dict):
        kind, hint = type(values).__name__, foreign_hint(path, written)
        raise ValueError(f"{path}: a data card is a mapping such as 'train: train.json', got {kind}{hint}")
    return {str(key): value for key, value in values.items() if value is not None}  # `val:` alone means absent


def _refuse_unknown_keys(path: Path, values: dict[str, Any]) -> None:
    known = list(DataCard.model_fields)
    faults = []
    for key in values:
        if key not in known:
            faults.append(f"{path}: unknown key {key!r}{near(key, known)}")
    if faults:
        raise ValueError("\n".join(faults) + foreign_hint(path, path.name))


def near(name: str, known: list[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known)}"


def _folder_of(path: Path, value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}: root must be a path, got {value!r:.80}")
    try:
        return (path.parent / user_path(value)).resolve()
    except (ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ValueError(f"{path}: root: {error}; correct it") from error


def _parts(key: str, given: Any, root: Path, faults: list[str]) -> tuple[Part, ...]:
    """What the card says of one role. A path alone is a COCO file, or of unlabelled images their folder as well."""
    listed = given if isinstance(given, list) else [given]
    if not listed:
        faults.append(f"{key} is an empty list; give {PART_FORMS}, or leave {key} out")
    parts: list[Part] = []
    for number, one in enumerate(listed):
        where = f"{key}[{number}]" if isinstance(given, list) else key
        values = {"coco": one} if isinstance(one, str) else one
        if isinstance(one, str) and key == "unlabelled" and _is_dir(root, one):
            values = {"images": one}
        form = PART_KEYS.get(frozenset(values)) if isinstance(values, dict) else None
        if form is None:
            faults.append(f"{where} must be {PART_FORMS}, got {one!r:.80}")
        elif form is ImagePart and key != "unlabelled":
            faults.append(f"{where} has images and no labels, got {one!r:.80}; add masks: folder, or coco: file")
        elif bad := [name for name, value in values.items() if not isinstance(value, str) or not value]:
            faults.append(f"{where}: {' and '.join(bad)} must be a path, got {values[bad[0]]!r:.80}")
        else:
            try:
                parts.append(form.model_validate({name: _under(root, value) for name, value in values.items()}))
            except ValueError as error:
                faults.append(f"{where}: {error}; correct it")
    return tuple(parts)


def _is_dir(root: Path, text: str) -> bool:
    try:
        return _under(root, text).is_dir()
    except ValueError:  # of no path at all, which is reported with the part
        return False


PART_KEYS: Mapping[frozenset[str], type[Part]] = {
    frozenset({"coco"}): CocoPart,
    frozenset({"coco", "images"}): CocoPart,
    frozenset({"images", "masks"}): MaskPart,
    frozenset({"images"}): ImagePart,
}


def _under(root: Path, value: str) -> Path:
    """Links are kept: the names of images begin where the card says, wherever a linked folder leads."""
    return Path(os.path.normpath(root / user_path(value)))


def _read_mask_rules(values: dict[str, Any], root: Path, faults: list[str]) -> None:
    """Read `classes` into `values`, and find out whether the masks have a background."""
    masked = any(isinstance(part, MaskPart) for key in FILE_KEYS for part in values.get(key, ()))
    if not masked:
        faults += [
            f"{key} is for masks, and the card names none; COCO files bring their own: leave it out"
            for key in ("classes", "ignore_index", "reduce_zero_label")
            if values.get(key, False) is not False
        ]
        return
    if "classes" not in values:
        faults.append(
            "masks need classes: a list in the order of the values, or a mapping from values to names, "
            "e.g. classes: {0: background, 1: cell}"
        )
        return
    try:
        table = read_table(values["classes"], root, first=int(values.get("reduce_zero_label") is True))
    except ValueError as error:
        faults.append(str(error))
        return
    values["classes"] = table
    named = any(is_background(name) for name in table.names)
    if values.setdefault("background", named) is True and not named:
        faults.append(
            f"background is true, and classes name no {BACKGROUND.lower()}; name the value that means it, or leave "
            "background out"
        )
    ignored = values.get("ignore_index")  # what is no number, the card's own type refuses
    if isinstance(ignored, int) and not table.colours and ignored in dict(table.entries):
        faults.append(f"ignore_index {ignored} is the class {dict(table.entries)[ignored]!r} as well; keep one")
    if isinstance(ignored, int) and table.colours:
        faults.append("ignore_index is a value of one channel, and classes are colours; list the name under ignore")


def is_background(name: str) -> bool:
    """Whether a class of that name is the background, however spelt."""
    return name.strip("_ ").casefold() == BACKGROUND.casefold()


def _in_words(path: Path, error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        lines.append(f"{path}: {where}: {fault['msg'].removeprefix('Value error, ')}, got {short(fault['input'])}")
    return "\n".join(lines)


def _refuse_shared_places(path: Path, card: DataCard) -> None:
    roles: dict[Path, str] = {}
    for role, parts in card.parts().items():
        for part in parts:
            if part.place in roles:
                other = roles[part.place]
                raise ValueError(
                    f"{path}: {other} and {role} must be different files, got {part.place} for both; "
                    + (f"leave {role} out to have it carved from train" if other != role else "list it once")
                )
            roles[part.place] = role
