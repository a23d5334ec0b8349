"""What of a run's folder is to be uploaded, as of one moment: whole files, and a study whose checkpoints are all there.

Everything in a run's folder is renamed into place or appended to, but for SQLite databases, which are copied by SQLite
itself, and Ray's checkpoint folders, which count from when the study names them. A running search deletes a checkpoint
soon after the study has named the next one, so those that a copied study names are held by hard links meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from search.engine.study_file import named_checkpoints
from search.run_dir import JOURNAL, RunDir

Stamp = tuple[int, int]  # bytes, and when it was changed last, in nanoseconds
Uploaded = Mapping[str, Stamp]  # name -> the file's stamp when it was uploaded
CHECKPOINT = re.compile(r"tune/[^/]+/[^/]+/checkpoint_[^/]+/")
DATABASES = (".db", ".db-wal")  # what a change of a database shows in
NOT_COPIED = (".db-wal", ".db-shm", ".db-journal", ".lock", ".lease")
STUDIES = ("study.db", JOURNAL)
LAST = (*STUDIES, "run.json")  # what names other files is uploaded after them
COPIES = 5  # of the study, while it is quicker than its checkpoints can be linked


@dataclass(frozen=True)
class Item:
    """One file to be uploaded."""

    name: str  # relative to the run's directory, with slashes
    stamp: Stamp
    source: Path  # the file itself, or a copy or link of it


@dataclass(frozen=True)
class Snapshot:
    """The files of a run, in the order in which they may be uploaded: what names others comes after them."""

    items: tuple[Item, ...]
    last: tuple[Item, ...]  # the study, then run.json

    @property
    def names(self) -> set[str]:
        return {item.name for item in (*self.items, *self.last)}


def take(run: RunDir, staging: Path, uploaded: Uploaded) -> Snapshot | None:
    """The run as of now; `staging`, on the same disk, is emptied and holds the copies. None where the search was too
    quick for a study with all its checkpoints; what is uploaded as `uploaded` says is not copied again."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    record = _copied(run.run_json, run, staging)  # first: a stage that it calls done has all its files by now
    study, held = None, list[Item]()
    if run.study_db.exists():
        found = _study_with_checkpoints(run, staging, uploaded)
        if found is None:
            return None
        study, held = found
    last = tuple(item for item in (study, record) if item is not None)
    there = {item.name: item for item in _files(run, staging, uploaded)}
    there |= {item.name: item for item in held}
    return Snapshot(tuple(there.values()), last)


def stamps(run: RunDir) -> dict[str, Stamp]:
    """Of every file of a run that nobody works on."""
    paths = (path for path in run.root.rglob("*") if path.is_file() and not path.name.endswith(NOT_COPIED))
    return {item.name: item.stamp for path in paths if (item := _item(path, run)) is not None}


def _study_with_checkpoints(run: RunDir, staging: Path, uploaded: Uploaded) -> tuple[Item, list[Item]] | None:
    for _ in range(COPIES):
        study = _study(run, staging)
        named = named_checkpoints(study.source)
        held = [item for name in sorted(named) for item in _held(run, name, staging, uploaded)]
        if named <= named_checkpoints(run.study_db):  # so none of them was being deleted while it was linked
            return study, held
    return None


def _files(run: RunDir, staging: Path, uploaded: Uploaded) -> Iterator[Item]:
    """All but those that go last, checkpoints, which only the study can vouch for, and what is hidden: files that are
    being written."""
    for folder, folders, files in os.walk(run.root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(run.root).as_posix()
            if name in LAST or name.endswith(NOT_COPIED) or CHECKPOINT.match(name):
                continue
            if file.startswith(".") or path.is_symlink():
                continue
            item = _database(path, run, staging, uploaded) if path.suffix == ".db" else _item(path, run)
            if item is not None:
                yield item


def _item(path: Path, run: RunDir, source: Path | None = None) -> Item | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return Item(path.relative_to(run.root).as_posix(), (state.st_size, state.st_mtime_ns), source or path)


def _copied(path: Path, run: RunDir, staging: Path) -> Item | None:
    item = _item(path, run, staging / path.name)
    if item is not None:
        shutil.copyfile(path, item.source)
    return item


def _study(run: RunDir, staging: Path) -> Item:
    path = run.study_db
    item = _database(path, run, staging, {}) if path.suffix == ".db" else _copied(path, run, staging)
    assert item is not None  # a run never loses its study
    return item


def _database(path: Path, run: RunDir, staging: Path, uploaded: Uploaded) -> Item:
    """A consistent copy, whoever writes meanwhile. Its stamp counts what waits in the write-ahead log as well."""
    parts = [item.stamp for suffix in DATABASES if (item := _item(path.with_suffix(suffix), run)) is not None]
    stamp, name = (sum(size for size, _ in parts), max(changed for _, changed in parts)), path.relative_to(run.root)
    target = staging / name.as_posix().replace("/", "~")
    if uploaded.get(name.as_posix()) != stamp:
        with closing(sqlite3.connect(path, timeout=60)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    return Item(name.as_posix(), stamp, target)


def _held(run: RunDir, name: str, staging: Path, uploaded: Uploaded) -> Iterator[Item]:
    """A checkpoint's files, by links where they are not uploaded yet."""
    for folder, _, files in os.walk(run.root / name):
        for file in files:
            path = Path(folder, file)
            item = _item(path, run)
            if item is None:
                continue
            if uploaded.get(item.name) != item.stamp:
                item = Item(item.name, item.stamp, staging / "checkpoints" / item.name)
                item.source.parent.mkdir(parents=True, exist_ok=True)
                item.source.unlink(missing_ok=True)
                with contextlib.suppress(FileNotFoundError):  # it is being deleted: the caller copies the study again
                    os.link(path, item.source)
            yield item
