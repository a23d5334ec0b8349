"""What is to be predicted: files, folders, glob patterns, COCO files and zip archives, as one list of named images.

Predictions are named after the images: a folder's by their paths under it, a COCO file's by `file_name`, a zip's by its
members, a pattern's by what follows its first folders without a wildcard. With several inputs the names of folders and
zips begin with the folder's or archive's own name. No archive is unpacked: a member is read into memory when its turn
comes, at most MAX_MEMBER_BYTES of it.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

from trainables.data.card import DataProblems
from trainables.data.image_file import SUFFIXES, decode_image, decode_opened
from trainables.data.image_folder import ImageFolder, images_under
from trainables.files import can_name_file, user_path
from trainables.plain_json import read_object

if TYPE_CHECKING:
    from trainables.data.image_file import DecodedImage

MAX_MEMBER_BYTES = 2**28  # of one image in a zip
MAX_MEMBERS = 1_000_000
NO_IMAGE = "file that is no image by its suffix, left out"
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class NamedImage:
    """An image that is not read yet. `read` raises ValueError naming it where it cannot be."""

    name: str  # relative, with '/'
    read: Callable[[], DecodedImage]
    source: Path  # the file, or the archive with the member's name


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
            found.images.append(NamedImage(path.name, partial(decode_image, path), path))
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
        found.images.append(NamedImage(prefix + name, partial(decode_image, folder / name), folder / name))
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
    found.images += [NamedImage(path.relative_to(base).as_posix(), partial(decode_image, path), path) for path in kept]
    found.others += [path.relative_to(base).as_posix() for path in paths if path not in set(kept)]


def _add_coco(path: Path, found: FoundImages, rules: _Rules) -> None:
    content = read_object(path, "give a COCO file")
    images = content.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(entry, dict) for entry in images):
        raise ValueError(f"{path} must be COCO, with a list of images under 'images', got none; give another file")
    folder = ImageFolder(*[(rules.coco_images or path.parent).resolve()] * 2)
    problems: list[str] = []
    for number, entry in enumerate(images):
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            problems.append(f"{path}: image {number} needs a file_name, got {name!r}; write one")
            continue
        try:
            place = folder.path_of(name)
        except ValueError as error:
            problems.append(f"{path}: image {number} ({name!r:.80}): {error}")
            continue
        if place.is_file():
            found.images.append(NamedImage(PurePosixPath(name).as_posix(), partial(decode_image, place), place))
        else:
            problems.append(f"{path}: image {number}: {folder.why_missing(name)}, or name its folder by --images")
    if problems:
        raise DataProblems(problems)


def _add_zip(path: Path, found: FoundImages, rules: _Rules) -> None:
    try:
        archive = rules.stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} must be a zip archive, got a broken one ({error}); copy it again") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{path} must have at most {MAX_MEMBERS} members, got {len(members)}; split it")
    problems = [f"{path}: {fault}" for member in members if (fault := _fault(member))]
    if problems:
        raise DataProblems(problems)
    prefix = f"{path.stem}/" if rules.many else ""
    members = [member for member in members if not _is_hidden(member.filename)]
    images = [member for member in members if PurePosixPath(member.filename).suffix.lower() in SUFFIXES]
    if not images:
        raise ValueError(f"a zip must hold at least one image, got none in {path}; check it")
    for member in images:
        read = partial(_decode_member, archive, member)
        found.images.append(
            NamedImage(prefix + PurePosixPath(member.filename).as_posix(), read, path / member.filename)
        )
    left_out = {member.filename for member in members} - {member.filename for member in images}
    found.others += [prefix + name for name in sorted(left_out)]


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith(".")


def _fault(member: zipfile.ZipInfo) -> str | None:
    """Why a member must not be read. Its name would name a file of ours."""
    name = member.filename
    outside = ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith(("/", "\\"))
    if outside or PureWindowsPath(name).drive or not can_name_file(name):
        return f"the names of members must lie inside the archive, got {name!r:.80}; write the zip again"
    if member.flag_bits & 1:
        return f"{name!r:.80} is encrypted; write the zip without a password"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"{name!r:.80} must have at most {MAX_MEMBER_BYTES} bytes, got {member.file_size}; take it out"
    return None


def _decode_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> DecodedImage:
    def opened() -> BinaryIO:
        try:
            with archive.open(member) as stream:
                return io.BytesIO(stream.read(MAX_MEMBER_BYTES))  # never more than the size that was checked above
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            raise OSError(str(error)) from error

    return decode_opened(opened, f"{archive.filename}/{member.filename}")


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
