"""A folder of one node for processes that do not see it: an actor beside it reads and writes there for them.

Files travel in chunks through Ray's object store, and appear under their names once they are whole.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from search.cluster.ray_tasks import portable_errors, result_of

CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Entry:
    """A file or folder."""

    path: str
    is_folder: bool
    size: int  # bytes
    changed_ns: int

    @staticmethod
    def of(path: Path) -> Entry | None:
        """None where there is nothing."""
        try:
            state = path.stat()
        except FileNotFoundError:
            return None
        return Entry(str(path), path.is_dir(), state.st_size, state.st_mtime_ns)


class FolderService:
    """Reads and writes under `root`, by absolute paths. Every call can be repeated: Ray repeats one whose answer was
    lost. Methods raise ValueError for a path outside of `root`, and OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @portable_errors
    def entries(self, paths: Sequence[str]) -> list[Entry | None]:
        return [Entry.of(self._at(path)) for path in paths]

    @portable_errors
    def below(self, path: str, recursive: bool) -> list[Entry]:
        found = self._at(path).rglob("*") if recursive else self._at(path).glob("*")
        return [entry for each in found if (entry := Entry.of(each)) is not None]

    @portable_errors
    def read(self, path: str, start: int, size: int) -> bytes:
        with self._at(path).open("rb") as file:
            file.seek(start)
            return file.read(size)

    @portable_errors
    def write(self, path: str, start: int, chunk: bytes) -> None:
        place = self._at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as out:
            out.seek(start)
            out.write(chunk)

    @portable_errors
    def rename(self, source: str, target: str) -> None:
        try:
            self._at(source).replace(self._at(target))
        except FileNotFoundError:
            if not self._at(target).exists():  # else an earlier try did it
                raise

    @portable_errors
    def make(self, path: str) -> None:
        self._at(path).mkdir(parents=True, exist_ok=True)

    @portable_errors
    def delete(self, path: str) -> None:
        """A file, or a folder with all that it holds; nothing where it is gone."""
        place = self._at(path)
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def _at(self, path: str) -> Path:
        place = Path(os.path.normpath(path))
        if not place.is_relative_to(self.root):
            raise ValueError(f"a worker's files must lie in {self.root}, got {path}; see who writes there")
        return place


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of one node, wherever this process is."""

    root: Path
    actor: str  # the name of its service
    marker: str  # the name of a file in it that no other folder has

    @property
    def is_here(self) -> bool:
        """Whether this process sees the folder."""
        return (self.root / self.marker).exists()

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of `FolderService`. Raises what it raises, and ValueError where the service is gone."""
        if self.is_here:
            return getattr(FolderService(self.root), method)(*args)
        return result_of(getattr(_service(self.actor), method).remote(*args))

    def download(self, entry: Entry, target: Path) -> None:
        """Copy a file to this node."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            for start in range(0, entry.size, CHUNK_BYTES):
                out.write(self.ask("read", entry.path, start, CHUNK_BYTES))

    def upload(self, source: Path, target: Path) -> None:
        """Copy a file of this node, whole or not at all. Raises FileNotFoundError where it is gone by now."""
        with source.open("rb") as file:
            writer = RemoteWriter(self, str(target))
            while chunk := file.read(CHUNK_BYTES):
                writer.add(chunk)
            writer.end()


@functools.cache
def _service(name: str) -> Any:
    return ray.get_actor(name)


class RemoteWriter:
    """Writes a file from its beginning to its end; it appears at the end. The name until then is one that a resumed
    run removes, see `trainables.files.remove_unfinished`."""

    def __init__(self, folder: RemoteFolder, path: str) -> None:
        self.folder, self.path, self.size = folder, path, 0
        parent, _, name = path.rpartition("/")
        self.temporary = f"{parent}/.{name}.{secrets.randbits(48)}.tmp"

    def add(self, chunk: bytes) -> None:
        self.folder.ask("write", self.temporary, self.size, chunk)
        self.size += len(chunk)

    def end(self) -> None:
        if not self.size:
            self.add(b"")
        self.folder.ask("rename", self.temporary, self.path)
