"""What is to be predicted: files, folders, glob patterns, COCO files and zip archives, as one list of named images.

Predictions are named after the images: a folder's by their paths under it, a COCO file's by `file_name`, a zip's by its
members, a pattern's by what follows its first folders without a wildcard. With several inputs the names of folders and
zips begin with the folder's or archive's own name.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from analysis.prediction.archive import Archive, faults, is_hidden
from trainables.data.card import DataProblems
from trainables.data.image_file import SUFFIXES, decode_opened, size_of_opened
from trainables.data.image_folder import ImageFolder, images_under
from trainables.files import user_path
from trainables.plain_json import read_object

if TYPE_CHECKING:
    from trainables.data.image_file import DecodedImage

NO_IMAGE = "file that is no image by its suffix, left out"
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class NamedImage:
    """An image that is not read yet; it may be sent to another process."""

    name: str  # relative, with '/'
    opened: Callable[[], BinaryIO]
    source: Path  # the file, or the archive with the member's name
    file: Path  # that changes where the image does

    @classmethod
    def of_file(cls, name: str, path: Path) -> NamedImage:
        """An image that is a file."""
        return cls(name, partial(_open_file, path), path, path)

    def read(self) -> DecodedImage:
        """Raises ValueError naming the image where it cannot be read."""
        return decode_opened(self.opened, str(self.source))

    def size(self) -> tuple[int, int]:
        """Height and width in px, from the head of the file. Raises ValueError as `read` does."""
        return size_of_opened(self.opened, str(self.source))


def _open_file(path: Path) -> BinaryIO:
    return path.open("rb")


@dataclass
class FoundImages:
    """The images of all inputs in their order, each name once, and the names of the files that are none."""

    images: list[NamedImage] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@contextmanager
def open_inputs(inputs: Sequence[str], out: Path, *, coco_images: Path | None = None) -> Iterator[FoundImages]:
    """Find the images of all inputs; archives stay open until the end.

    `coco_images` is what the file names of COCO files are relative to, the file's own folder where it is None.
    Raises DataProblems with all that is wrong: an input that is not there or holds no image, a COCO file or zip that is
    broken or has names that lead out of its root, two images of one name, `out` inside a folder that is read.
    """
    found, problems = FoundImages(), []
    with ExitStack() as stack:
        for text in inputs:
            try:
                _add(text, found, _Rules(out.resolve(), coco_images, many=len(inputs) > 1, stack=stack))
            except DataProblems as error:
                problems += error.problems
            except (ValueError, OSError) as error:
                problems.append(str(error))
        problems += _doubles(found)
        if problems:
            raise DataProblems(problems)
        yield found


@dataclass(frozen=True)
class _Rules:
    out: Path
    coco_images: Path | None
    many: bool  # inputs
    stack: ExitStack


def _add(text: str, found: FoundImages, rules: _Rules) -> None:
    path = user_path(text)
    if path.is_dir():
        _add_folder(path, found, rules)
    elif path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".json":
            _add_coco(path, found, rules)
        elif suffix == ".zip":
            _add_zip(path, found, rules)
        else:
            found.images.append(NamedImage.of_file(path.name, path))
    elif WILDCARDS & set(text):
        _add_pattern(path, found, rules)
    else:
        raise ValueError(
            f"an input must be an image, a folder, a pattern such as 'photos/*.jpg', a COCO file or a zip, got {text}, "
            "which is not there; correct the path"
        )


def _add_folder(folder: Path, found: FoundImages, rules: _Rules) -> None:
    if rules.out.is_relative_to(folder.resolve()):
        raise ValueError(f"--out must lie outside the images, got {rules.out} in {folder}; choose another folder")
    prefix = f"{folder.resolve().name}/" if rules.many else ""
    names, others = images_under(folder)
    if not names:
        raise ValueError(
            f"a folder must hold at least one image ({', '.join(sorted(SUFFIXES))}), got none in {folder}; check it"
        )
    for name in names:
        found.images.append(NamedImage.of_file(prefix + name, folder / name))
    found.others += [prefix + name for name in others]


def _add_pattern(pattern: Path, found: FoundImages, rules: _Rules) -> None:
    parts = pattern.parts
    first = next(n for n, part in enumerate(parts) if WILDCARDS & set(part))
    base = Path(*parts[:first])
    paths = [path for path in sorted(base.glob(str(Path(*parts[first:])))) if path.is_file()]
    kept = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not kept:
        raise ValueError(f"a pattern must match at least one image, got {pattern} with {len(paths)} other files")
    ours = next((path for path in kept if path.resolve().is_relative_to(rules.out)), None)
    if ours is not None:
        raise ValueError(f"--out must lie outside the images, got {ours} for {pattern}; choose another folder")
    found.images += [NamedImage.of_file(path.relative_to(base).as_posix(), path) for path in kept]
    found.others += [path.relative_to(base).as_posix() for path in paths if path not in set(kept)]


def _add_coco(path: Path, found: FoundImages, rules: _Rules) -> None:
    folder = ImageFolder(*[(rules.coco_images or path.parent).resolve()] * 2)
    problems: list[str] = []
    for number, name in enumerate(file_names(path)):
        if not name:
            problems.append(f"{path}: image {number} needs a file_name, got none; write one")
            continue
        try:
            place = folder.path_of(name)
        except ValueError as error:
            problems.append(f"{path}: image {number} ({name!r:.80}): {error}")
            continue
        if place.is_file():
            found.images.append(NamedImage.of_file(PurePosixPath(name).as_posix(), place))
        else:
            problems.append(f"{path}: image {number}: {folder.why_missing(name)}, or name its folder by --images")
    if problems:
        raise DataProblems(problems)


def file_names(path: Path) -> list[str]:
    """The names of the images of a COCO file, in its order; '' of one without. Raises ValueError where it is none."""
    images = read_object(path, "give a COCO file").get("images")
    if not isinstance(images, list) or not images or not all(isinstance(entry, dict) for entry in images):
        raise ValueError(f"{path} must be COCO, with a list of images under 'images', got none; give another file")
    names = [entry.get("file_name") for entry in images]
    return [name if isinstance(name, str) else "" for name in names]


def _add_zip(path: Path, found: FoundImages, rules: _Rules) -> None:
    try:
        archive = Archive(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} must be a zip archive, got a broken one ({error}); copy it again") from error
    rules.stack.callback(archive.close)
    members = archive.members()
    problems = [f"{path}: {fault}" for fault in faults(members)]
    if problems:
        raise DataProblems(problems)
    prefix = f"{path.stem}/" if rules.many else ""
    members = [member for member in members if not is_hidden(member.filename)]
    images = [member for member in members if PurePosixPath(member.filename).suffix.lower() in SUFFIXES]
    if not images:
        raise ValueError(f"a zip must hold at least one image, got none in {path}; check it")
    for member in images:
        name = prefix + PurePosixPath(member.filename).as_posix()
        found.images.append(NamedImage(name, partial(archive.open, member), path / member.filename, path))
    left_out = {member.filename for member in members} - {member.filename for member in images}
    found.others += [prefix + name for name in sorted(left_out)]


def _doubles(found: FoundImages) -> list[str]:
    """Drop what was given twice; the problems are different images of one name."""
    first: dict[str, NamedImage] = {}
    problems = []
    for image in found.images:
        other = first.setdefault(image.name, image)
        if other.source != image.source:
            problems.append(
                f"two images must not have one name, got {image.name} from {other.source} and {image.source}; predict "
                "them into folders of their own"
            )
    found.images = list(first.values())
    return problems
