"""A remote folder as a file system of pyarrow, through which workers of Ray Tune leave and find checkpoints."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem
from typing_extensions import override

from search.cluster.remote_folder import CHUNK_BYTES, Entry, RemoteFolder, RemoteWriter


def filesystem_of(folder: RemoteFolder) -> PyFileSystem:
    """The folder by absolute paths. It can be sent to other processes of the cluster."""
    return PyFileSystem(FolderFileSystem(folder))


class FolderFileSystem(FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """What pyarrow asks of a file system."""

    def __init__(self, folder: RemoteFolder) -> None:
        self.folder = folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FolderFileSystem) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    @override
    def get_type_name(self) -> str:
        return "segsearch"

    @override
    def normalize_path(self, path: str) -> str:
        return path

    @override
    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        found = self.folder.ask("entries", paths)
        return [_info(path, entry) for path, entry in zip(paths, found, strict=True)]

    @override
    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        [itself] = self.folder.ask("entries", [selector.base_dir])
        if itself is None and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        found = self.folder.ask("below", selector.base_dir, selector.recursive) if itself else []
        return [_info(entry.path, entry) for entry in found]

    @override
    def create_dir(self, path: str, recursive: bool) -> None:
        self.folder.ask("make", path)

    @override
    def delete_dir(self, path: str) -> None:
        self.folder.ask("delete", path)

    @override
    def delete_file(self, path: str) -> None:
        self.folder.ask("delete", path)

    @override
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        for entry in self.folder.ask("below", path, False):
            self.folder.ask("delete", entry.path)

    @override
    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("the root of a node's disk is never emptied")

    @override
    def move(self, src: str, dest: str) -> None:
        self.folder.ask("rename", src, dest)

    @override
    def copy_file(self, src: str, dest: str) -> None:
        with self.open_input_stream(src) as source, self.open_output_stream(dest, None) as out:
            while chunk := source.read(CHUNK_BYTES):
                out.write(chunk)

    @override
    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    @override
    def open_input_file(self, path: str) -> pa.NativeFile:
        [entry] = self.folder.ask("entries", [path])
        if entry is None or entry.is_folder:
            raise FileNotFoundError(path)
        return pa.PythonFile(_Input(self.folder, entry), mode="r")

    @override
    def open_output_stream(self, path: str, metadata: Mapping[str, str] | None) -> pa.NativeFile:
        return pa.PythonFile(_Output(RemoteWriter(self.folder, path)), mode="w")

    @override
    def open_append_stream(self, path: str, metadata: Mapping[str, str] | None) -> pa.NativeFile:
        raise NotImplementedError(f"files of a run appear whole: {path} cannot be appended to")


def _info(path: str, entry: Entry | None) -> FileInfo:
    if entry is None:
        return FileInfo(path, FileType.NotFound)
    if entry.is_folder:
        return FileInfo(path, FileType.Directory, mtime_ns=entry.changed_ns)
    return FileInfo(path, FileType.File, size=entry.size, mtime_ns=entry.changed_ns)


class _Output(io.RawIOBase):
    """`RemoteWriter` as Python's files are."""

    def __init__(self, writer: RemoteWriter) -> None:
        self.writer = writer

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, chunk: Any) -> int:
        held = memoryview(chunk).cast("B")
        for start in range(0, len(held), CHUNK_BYTES):
            self.writer.add(bytes(held[start : start + CHUNK_BYTES]))
        return len(held)

    @override
    def close(self) -> None:
        if not self.closed:
            super().close()
            self.writer.end()


class _Input(io.RawIOBase):
    """A file of a remote folder as Python's files are."""

    def __init__(self, folder: RemoteFolder, entry: Entry) -> None:
        self.folder, self.entry, self.place = folder, entry, 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self.place

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.entry.size}[whence]
        return self.place

    @override
    def readinto(self, buffer: Any) -> int:
        chunk: bytes = self.folder.ask("read", self.entry.path, self.place, min(len(buffer), CHUNK_BYTES))
        buffer[: len(chunk)] = chunk
        self.place += len(chunk)
        return len(chunk)
