"""Zip archives of images. None is unpacked: a member is read into memory when its turn comes, at most MAX_MEMBER_BYTES
of it.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from trainables.files import can_name_file

MAX_MEMBER_BYTES = 2**28  # of one image
MAX_MEMBERS = 1_000_000


class Archive:
    """A zip that is open. A copy in another process opens it again."""

    def __init__(self, path: Path) -> None:
        self._path, self._zip = path, zipfile.ZipFile(path)

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self._path,)

    def members(self) -> list[zipfile.ZipInfo]:
        """All but folders."""
        return [member for member in self._zip.infolist() if not member.is_dir()]

    def open(self, member: zipfile.ZipInfo) -> BinaryIO:
        """A member, read into memory. Raises OSError where it is broken."""
        try:
            with self._zip.open(member) as stream:
                return io.BytesIO(stream.read(MAX_MEMBER_BYTES))  # never more than the size that was checked before
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        self._zip.close()


def faults(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Why the archive must not be read, a line per reason."""
    if len(members) > MAX_MEMBERS:
        return [f"it must have at most {MAX_MEMBERS} members, got {len(members)}; split it"]
    return [fault for member in members if (fault := _fault(member))]


def is_hidden(name: str) -> bool:
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
