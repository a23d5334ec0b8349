"""The folder that is converted: which files it has, its images, and everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from trainables.data.card import Findings
from trainables.data.image_file import ImageFile, probe_image
from trainables.data.image_folder import ImageFolder, files_under, images_under

MAX_TEXT_BYTES = 256 * 2**20  # LabelMe files hold their image


class InputFolder:
    """Names in it are relative, with '/', and lead out of it only where links may. `boxes`: rectangles are outlines."""

    def __init__(self, root: Path, *, boxes: bool = False, follow_links: bool = False) -> None:
        self.root, self.boxes, self.follow_links = root, boxes, follow_links
        self.folder = ImageFolder(root, root, follow_links=follow_links)
        self.findings = Findings()
        self.images = cache(lambda: images_under(root, follow_links=follow_links)[0])

    def files(self, suffixes: Collection[str], under: str = ".") -> list[str]:
        """The files with one of the suffixes in a folder and those below it, sorted."""
        found = files_under(self.root / under, follow_links=self.follow_links)
        names = sorted(path.relative_to(self.root).as_posix() for path in found if path.suffix.lower() in suffixes)
        return [name for name in names if self.path_of(name, name) is not None]

    def path_of(self, name: str, where: str) -> Path | None:
        """The path of a name, or None for one that leads elsewhere, which is an error."""
        try:
            return self.folder.path_of(name)
        except ValueError as error:
            self.findings.error(f"{where}: {error}")
            return None

    def image(
        self, name: str, where: str, told: tuple[int, int] | None = None, *, drawn: bool = True
    ) -> ImageFile | None:
        """The facts of an image, or None for one that is missing, broken or not of the size (H,W) that was told.

        Shapes that were drawn on a picture with an orientation tag may mean the turned picture: it is refused.
        """
        path = self.path_of(name, where)
        if path is None:
            return None
        if not path.is_file():
            self.findings.error(f"{where}: image {name!r}: {self.folder.why_missing(name)}")
            return None
        try:
            file = probe_image(path)
        except (OSError, ValueError) as error:
            self.findings.error(f"{where}: image {name!r}: {error}")
            return None
        if drawn and file.orientation != 1:
            self.findings.error(
                f"{where}: image {name!r} has the EXIF orientation {file.orientation}, and whether its labels were "
                "drawn on the turned picture cannot be known; save it upright without the tag, and check its labels"
            )
            return None
        if told is not None and told != (file.height, file.width):
            self.findings.error(
                f"{where}: says {told[1]} x {told[0]} px, the image {name!r} has {file.width} x {file.height} px; "
                "export the labels for the image as it is"
            )
            return None
        return file

    def text(self, name: str) -> str:
        """The text of a file. Raises ValueError for one that is missing, too large or no UTF-8."""
        path = self.folder.path_of(name)
        try:
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise ValueError(f"has more than {MAX_TEXT_BYTES // 2**20} MiB; split it")
            return path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror}); correct the path") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8 ({error}); save it as UTF-8") from error

    def json_object(self, name: str) -> dict[str, Any]:
        """The object in a JSON file. Raises ValueError."""
        text = self.text(name)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not valid JSON ({error}); export it again") from error
        if not isinstance(content, dict):
            raise ValueError(f"must be a JSON object, got {type(content).__name__}; take it out of the folder")
        return content


def stem(name: str) -> str:
    """A name without its suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()
