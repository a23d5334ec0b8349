"""Which classes the channels of another tool's predictions are: read from its files, put in the data card's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.plain_json import parse_json


def class_names(folder: Path) -> list[str] | None:
    """The names in `classes.json` (a list) or nnU-Net's `dataset.json`, of the folder or the one above; None where
    neither is there. Raises ValueError, with the path, for one that says something else, such as regions."""
    for place in (folder, folder.parent):
        if (place / "classes.json").is_file():
            return checked_names(_json(place / "classes.json"), place / "classes.json")
        if (place / "dataset.json").is_file():
            content = _json(place / "dataset.json")
            labels = content.get("labels") if isinstance(content, dict) else None
            if labels is not None:
                return _nnunet_names(labels, place / "dataset.json")
    return None


def class_order(where: Path, have: Sequence[str] | None, wanted: Sequence[str]) -> list[int]:
    """Where each wanted class lies in the arrays of a file or folder. Raises ValueError where the names are others."""
    if have is None or list(have) == list(wanted):
        return list(range(len(wanted)))
    if sorted(have) != sorted(wanted):
        lacking = ", ".join(sorted(set(wanted) - set(have))) or "none"
        extra = ", ".join(sorted(set(have) - set(wanted))) or "none"
        raise ValueError(
            f"logits that are used together must be of the same classes: {where} lacks {lacking} and has besides "
            f"{extra}; rename them in its classes.json, or leave it out"
        )
    return [list(have).index(name) for name in wanted]


def checked_names(value: object, path: Path) -> list[str]:
    """A list of different names, one per channel."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f'{path}: class names must be a list such as ["Background", "road"], got {value!r:.80}')
    if len(set(value)) < len(value):
        raise ValueError(f"{path}: class names must differ, got {value!r:.200}; name every channel by its class")
    return list(value)


def _json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); write it again, or take it out") from error


def _nnunet_names(labels: object, path: Path) -> list[str]:
    """nnU-Net 2 maps names to values, nnU-Net 1 values to names; the channels follow the values, from 0."""
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"{path}: labels must map names to values, got {labels!r:.80}")
    if all(isinstance(name, str) and str(value).isdecimal() for value, name in labels.items()):
        values = {name: int(value) for value, name in labels.items()}
        if len(values) < len(labels):
            raise ValueError(f"{path}: two values have one name, got {labels!r:.200}; name every class once")
    else:
        values = {str(name): value for name, value in labels.items() if name != "ignore"}
    regions = [name for name, value in values.items() if isinstance(value, list) and len(value) != 1]
    if regions:
        raise ValueError(
            f"{path}: its channels are regions that overlap ({', '.join(regions)} of several labels), and classes are "
            "needed, one per pixel; train without regions, or turn them into classes and name these in classes.json"
        )
    flat = {name: value[0] if isinstance(value, list) else value for name, value in values.items()}
    ordered = sorted(flat, key=lambda name: str(flat[name]).zfill(9))
    if [flat[name] for name in ordered] != list(range(len(ordered))):
        raise ValueError(f"{path}: values of labels must be 0, 1, 2, ..., got {list(flat.values())!r:.120}")
    return [name.capitalize() if name == "background" else name for name in ordered]
