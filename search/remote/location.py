"""The folder that a URI names, and its files by name. Everything that pyarrow's `FileSystem.from_uri` takes will do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from trainables.files import can_name_file, write_atomically

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CHUNK_BYTES = 8 * 2**20
# what is added where the URI does not say otherwise: one request for a small file instead of three; not Google's
# default of 15 minutes, since retries are counted in `mirror`
DEFAULTS = {"s3": ("allow_delayed_open=true",), "gs": ("retry_limit_seconds=10",), "gcs": ("retry_limit_seconds=10",)}
SECRET_WORDS = ("key", "secret", "token", "password", "sig", "credential")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
REMEDY = (
    "keys come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ...), another server by "
    "?endpoint_override=HOST:PORT&scheme=http"
)


class StorageError(OSError):
    """The storage did not do what it was asked; its text holds no key."""


@dataclass(frozen=True)
class Location:
    """A folder at a URI. Methods raise StorageError where the storage fails."""

    uri: str
    filesystem: FileSystem
    path: str

    def sizes(self) -> dict[str, int]:
        """Name, relative to the folder -> bytes, of all files in it and below. StorageError where a name, which anybody
        who writes there can choose, would lead out of a folder of this machine."""
        from pyarrow.fs import FileSelector, FileType

        with self._failures():
            selector = FileSelector(self.path, recursive=True, allow_not_found=True)
            found = [info for info in self.filesystem.get_file_info(selector) if info.type is FileType.File]
        sizes = {info.path.removeprefix(self.path).lstrip("/"): info.size for info in found}
        outside = [name for name in sizes if ".." in PurePosixPath(name).parts or not can_name_file(name)]
        if outside:
            raise StorageError(f"files must have names that lie inside {self.uri}, got {outside[0]!r:.80}; delete it")
        return sizes

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        with self._failures():
            return bool(self.filesystem.get_file_info(self._at(name)).is_file)

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is none."""
        if not self.has(name):
            return None
        with self._failures(), self.filesystem.open_input_stream(self._at(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        self._put(name, iter((content,)))

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this machine, whole or not at all. Raises FileNotFoundError where it is gone by now."""
        with file.open("rb") as source:
            self._put(name, iter(lambda: source.read(CHUNK_BYTES), b""))

    def download(self, name: str, file: Path) -> None:
        """Copy a file to this machine, whole or not at all."""

        def write(temporary: Path) -> None:
            with (
                self._failures(),
                self.filesystem.open_input_stream(self._at(name)) as stream,
                temporary.open("wb") as out,
            ):
                while chunk := stream.read(CHUNK_BYTES):
                    out.write(chunk)

        write_atomically(file, write)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.has(name):
            with self._failures():
                self.filesystem.delete_file(self._at(name))

    def _put(self, name: str, chunks: Iterator[bytes]) -> None:
        # an object appears when its stream is closed; a file of a file system is there as soon as it is opened
        in_place, target = self.filesystem.type_name not in ("local", "hdfs", "viewfs"), self._at(name)
        with self._failures():
            if not in_place:
                self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            opened = target if in_place else f"{target}.{os.getpid()}.part"
            with self.filesystem.open_output_stream(opened) as out:
                for chunk in chunks:
                    out.write(chunk)
            if not in_place:
                self.filesystem.move(opened, target)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(_without_keys(str(error))) from None


def open_location(uri: str, option: str) -> Location:
    """The folder that an option names. Nothing is asked of the storage yet.

    Raises ValueError for a URI that no file system is known for, that holds a key, or names no folder.
    """
    parts = urlsplit(uri)
    secret = [name for name, _ in parse_qsl(parts.query) if any(word in name.lower() for word in SECRET_WORDS)]
    if parts.password or secret:
        raise ValueError(
            f"{option} must be a URI without keys, since it is written into the run's record, got one with "
            f"{', '.join(secret) or 'a password'}; {REMEDY}"
        )
    if parts.netloc and not parts.path.strip("/"):
        raise ValueError(
            f"{option} must name a folder of its own, got {uri}, a whole bucket; give {parts.scheme}://BUCKET/runs/NAME"
        )
    from pyarrow.fs import FileSystem

    wanted = [text for text in DEFAULTS.get(parts.scheme, ()) if text.partition("=")[0] not in parts.query]
    full = parts._replace(query="&".join([*filter(None, [parts.query]), *wanted])).geturl()
    try:
        filesystem, path = FileSystem.from_uri(full)
    except (ValueError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"{option} must be a folder or a URI that pyarrow knows, got {uri} ({error}); {REMEDY}"
        ) from None
    return Location(uri, filesystem, path.rstrip("/"))


def _without_keys(text: str) -> str:
    for name in SECRETS:
        if os.environ.get(name):
            text = text.replace(os.environ[name], f"${name}")
    return text
