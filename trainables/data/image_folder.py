"""Where the images of a part of the card lie: from the names in a file to paths, and why a file is not there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from trainables.data.image_file import SUFFIXES
from trainables.files import user_path

MAX_WALKED = 500_000  # files that are looked at for one whose name nearly matches


class ImageFolder:
    """The folder that the names of images are relative to. `prefix` makes them unique in the data set."""

    def __init__(self, folder: Path, root: Path, *, follow_links: bool = False) -> None:
        self.folder, self.root, self.follow_links = folder, root, follow_links
        inside = folder.is_relative_to(root)
        self.prefix = folder.relative_to(root).as_posix() if inside else folder.name
        self.name = str(folder.relative_to(root)) if inside else str(folder)  # in messages
        self._real = folder.resolve()

    def image_id(self, name: str) -> str:
        """The name after the folder's own: 'train2017/0001.jpg'."""
        return name if self.prefix == "." else f"{self.prefix}/{name}"

    def path_of(self, name: str) -> Path:
        """The path of an image, whether it is there or not. Raises ValueError for a name that leads elsewhere."""
        try:
            user_path(f"./{name}")
        except ValueError as error:
            raise ValueError(f"file_name: {error}; rename the image") from error
        path = self.folder / name
        if Path(name).is_absolute() or PureWindowsPath(name).drive:
            inside = Path(name).is_absolute() and path.is_relative_to(self.folder)
            relative = f"write {path.relative_to(self.folder).as_posix()!r}" if inside else "move the file under it"
            raise ValueError(f"file_name must be relative to {self.folder}, got an absolute path; {relative}")
        if ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise ValueError(f"file_name leaves the folder {self.folder}; move the file under it or correct root")
        if not self.follow_links and not path.resolve().is_relative_to(self._real):
            raise ValueError(
                f"file_name is a link that leads out of {self.folder}, to {path.resolve()}; set follow_links: true in "
                "the card (segsearch convert: --follow-links), or copy the file"
            )
        return path

    def identity(self, path: Path) -> Path:
        """What two names of one file share. Links of a store that keeps equal files once are files of their own."""
        return path if self.follow_links else path.resolve()

    def why_missing(self, name: str) -> str:
        """Why there is no file of that name: the nearest one there is, or what is wrong with the path."""
        path = self.folder / name
        if path.is_symlink():
            return f"a link to {path.readlink()}, which is not there; fetch it (dvc pull, git annex get)"
        if path.is_dir():
            return f"a folder and no file at {path}; correct the file_name"
        slashed = name.replace("\\", "/")
        if slashed != name and (self.folder / slashed).is_file():
            return f"no file of that name, and the folders of {slashed!r} are parted by backslashes; write /"
        found = self._nearest(slashed)
        if found is not None:
            return found
        return f"no file at {path}; add it, correct root, or take the image out of the file"

    def _nearest(self, name: str) -> str | None:
        wanted = PurePosixPath(unquote(name).strip())
        same_name = self._by_name.get(_key(wanted.name), [])
        for path in same_name:
            there = self._shown(path)
            if _key(there) == _key(str(wanted)):
                return f"no file of that name, but {there!r}, which differs in {_difference(name, there)}; use one name"
        if same_name:
            path = same_name[0]
            where = path.parent.relative_to(self._walked).as_posix()
            return (
                f"no file of that name, but {self._shown(path)!r}; where the names of a file lack their folder, say so "
                f"in the card: {{coco: ..., images: {where}}}, else correct the file_name"
            )
        stems = [path for path in self._by_stem.get(_key(wanted.stem), []) if path.suffix.lower() in SUFFIXES]
        if stems:
            return f"no file of that name, but {self._shown(stems[0])!r} with another suffix; correct the file_name"
        return None

    def _shown(self, path: Path) -> str:
        """As a file_name, or where the file lies outside this folder, from the root on."""
        return path.relative_to(self.folder if path.is_relative_to(self.folder) else self._walked).as_posix()

    @property
    def _walked(self) -> Path:
        return self.root if self.folder.is_relative_to(self.root) else self.folder

    @cached_property
    def _files(self) -> list[Path]:
        """All files under the root, those in this folder first; looked up only once something is missing."""
        walked = islice(files_under(self._walked), MAX_WALKED)
        return sorted(walked, key=lambda path: (not path.is_relative_to(self.folder), path))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped((_key(path.name), path) for path in self._files)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _grouped((_key(path.stem), path) for path in self._files)


def images_under(folder: Path, *, follow_links: bool = False) -> tuple[list[str], list[str]]:
    """The images in a folder and those below it, and the files that are none, as sorted relative names.

    Hidden files are passed over, and so are the `._` files that macOS leaves on other systems.
    """
    found = files_under(folder, follow_links=follow_links)
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    images = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    return images, [name for name in names if PurePosixPath(name).suffix.lower() not in SUFFIXES]


def files_under(folder: Path, *, follow_links: bool = False) -> Iterator[Path]:
    """Every file that is not hidden; a linked folder is entered once, and only with `follow_links`."""
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=follow_links):
        real = os.path.realpath(place)
        if real in entered:  # a link back to a folder above
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _grouped(pairs: Iterator[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return groups


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _difference(name: str, there: str) -> str:
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", there):
        return "its Unicode form (accents as one character or two)"
    return "upper and lower case" if name.casefold() == there.casefold() else "spaces or escaped characters"
