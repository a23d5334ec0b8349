"""What a file or folder that a card cannot use looks like, and how its labels are brought into a form that it can.

`FORMATS` is the registry. Only the beginning of a file is looked at, and of a folder a few of its files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trainables.data.image_folder import files_under

HEAD_BYTES = 64 * 1024
MAX_WALKED, MAX_OPENED = 2000, 20
MAX_LEVELS = 3  # from a file of labels up to the folder of its set
MASKS = "{images: folder, masks: folder}"
YOLO_LINE = re.compile(rb"\s*\d+(?:\.0)?(?:[ \t]+-?[\d.]+(?:e-?\d+)?){4,}[ \t\r]*(?:\n|$)")
YOLO_TABLE = (re.compile(rb"^names\s*:", re.MULTILINE), re.compile(rb"^(?:nc|train|path)\s*:", re.MULTILINE))
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w-]*(?:\.\d[\w-]*)*")
HUB_ADDRESS = re.compile(r"(?:hf:/+|https?:/+(?:www\.)?huggingface\.co/)datasets/([\w.-]+/[\w.-]+).*")


@dataclass(frozen=True)
class ForeignFormat:
    """A kind of file that others write. `convert` is its name for `segsearch convert`, where that reads it."""

    what: str
    matches: Callable[[Path, bytes], bool]  # path and beginning of a file
    suffixes: tuple[str, ...]
    convert: str = ""
    marks: tuple[str, ...] = ()  # what lies in the folder of such a set
    remedy: str = ""  # where nothing converts it


def _labelme(_: Path, head: bytes) -> bool:
    return b'"shapes"' in head and (b'"shape_type"' in head or b'"imagePath"' in head)


def _cityscapes(_: Path, head: bytes) -> bool:
    return b'"imgHeight"' in head and b'"objects"' in head


def _cvat(_: Path, head: bytes) -> bool:
    return b"<annotations" in head and (b"<image" in head or b"<meta" in head)


def _voc(_: Path, head: bytes) -> bool:
    return b"<annotation>" in head and b"<object" in head


def _yolo(path: Path, head: bytes) -> bool:
    if path.suffix.lower() == ".txt":
        return YOLO_LINE.match(head) is not None
    return all(key.search(head) for key in YOLO_TABLE)


def _by_suffix(_path: Path, _head: bytes) -> bool:
    return True


FORMATS: tuple[ForeignFormat, ...] = (
    ForeignFormat("LabelMe's JSON", _labelme, (".json",), convert="labelme"),
    ForeignFormat("Cityscapes' JSON", _cityscapes, (".json",), convert="cityscapes", marks=("leftImg8bit", "gtFine")),
    ForeignFormat("CVAT's XML", _cvat, (".xml",), convert="cvat", marks=("annotations.xml",)),
    ForeignFormat(
        "Pascal VOC's XML, which has boxes (its masks are in SegmentationClass)",
        _voc,
        (".xml",),
        convert="voc",
        marks=("SegmentationClass",),
    ),
    ForeignFormat(
        "YOLO's text", _yolo, (".txt", ".yaml", ".yml"), convert="yolo", marks=("data.yaml", "classes.txt", "images")
    ),
    ForeignFormat(
        "a table such as Kaggle's, with runs of pixels or names of files",
        _by_suffix,
        (".csv", ".tsv"),
        remedy=f"write one PNG of class indices for each image, and name the folders in a card: train: {MASKS}",
    ),
    ForeignFormat(
        "Parquet or Arrow, as Hugging Face keeps data sets",
        _by_suffix,
        (".parquet", ".arrow", ".feather"),
        remedy=f"save its images and masks as PNG files, and name the folders in a card: train: {MASKS}",
    ),
    ForeignFormat(
        "an archive",
        _by_suffix,
        (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"),
        remedy="unpack it, and name what is in it",
    ),
)
FOLDERS = {"gtFine": "cityscapes", "leftImg8bit": "cityscapes", "SegmentationClass": "voc"}  # in a folder -> its format


def foreign_hint(path: Path, written: str) -> str:
    """The end of a message about a path that a card cannot use, as it is `written` there: '; it looks like ...', or
    nothing where it looks like nothing known."""
    try:
        return _hint_of(path, written)
    except OSError:  # not to be looked at: why, is in the message that this is the end of
        return ""


def _hint_of(path: Path, written: str) -> str:
    if not path.exists():
        return _hub_hint(path, written)
    if path.is_dir():
        for name, kind in FOLDERS.items():
            if (path / name).is_dir():
                return _hint(next(each for each in FORMATS if each.convert == kind), path)
    for file in _files(path):
        found = _format_of(file)
        if found is not None:
            return _hint(found, file)
    return ""


def _files(path: Path) -> Iterator[Path]:
    """The file, or the first few in the folder that may be of a known format."""
    if not path.is_dir():
        yield path
        return
    suffixes = {suffix for each in FORMATS for suffix in each.suffixes}
    walked = sorted(islice(files_under(path), MAX_WALKED))
    yield from islice((file for file in walked if file.suffix.lower() in suffixes), MAX_OPENED)


def _format_of(file: Path) -> ForeignFormat | None:
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    candidates = (each for each in FORMATS if file.suffix.lower() in each.suffixes)
    return next((each for each in candidates if each.matches(file, head)), None)


def _hint(found: ForeignFormat, path: Path) -> str:
    if not found.convert:
        return f"; it looks like {found.what}: {found.remedy}"
    folder = _set_folder(path, found.marks)
    given, out = shlex.quote(str(folder)), shlex.quote(f"{folder}-coco")
    return (
        f"; it looks like {found.what}: convert it with: segsearch convert --from {found.convert} {given} --out {out}"
    )


def _set_folder(path: Path, marks: tuple[str, ...]) -> Path:
    """The folder of a set: the nearest one around a file that holds one of the marks, or else the file's own."""
    own = path if path.is_dir() else path.parent
    around = [own, *own.parents][: MAX_LEVELS + 1]
    return next((folder for folder in around if any((folder / mark).exists() for mark in marks)), own)


def _hub_hint(path: Path, written: str) -> str:
    """Of what is not there: a name such as owner/name, or an address."""
    address = HUB_ADDRESS.fullmatch(written)
    name = address[1] if address else written if PLAIN_NAME.fullmatch(written) and not path.parent.exists() else None
    if name is not None:
        return (
            f"; it looks like the name of a data set on Hugging Face: fetch it with: hf download {name} "
            f"--repo-type dataset --local-dir {name.rpartition('/')[2]}, save what is in Parquet files as PNG, and "
            f"name the folders in a card: train: {MASKS}"
        )
    if re.match(r"\w+:/+\w", written):
        return "; it looks like an address: fetch what is there into a folder, and name that"
    return ""
