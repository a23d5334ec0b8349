"""The folder of this machine in which a run at a URI is worked on. It lies under --cache-dir. Light to import."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.run_dir import read_json, uri_of, write_json

OWN_LOCKS = ("run.lock", "run.lease")  # of the folder itself, which this process holds
Say = Callable[[str], None]


@dataclass(frozen=True)
class WorkingCopy:
    """A URI, and the folder in which it is worked on."""

    uri: str
    option: str  # that named it
    state: Path  # the folder around the run's own

    @property
    def root(self) -> Path:
        """The run's directory on this machine. Its name is the URI's last part, as pages show it."""
        return self.state / (re.split("[?#]", self.uri)[0].rstrip("/").rpartition("/")[2] or "run")

    @property
    def _note(self) -> Path:
        return self.state / "last.json"

    def tokens(self) -> list[str]:
        """Those of the lock with which this folder has the newest files."""
        return list(read_json(self._note)["tokens"]) if self._note.exists() else []

    def note(self, tokens: Sequence[str], *, is_whole: bool) -> None:
        """Write down with which locks these are the newest files, and whether all of them were uploaded."""
        write_json(self._note, {"uri": self.uri, "tokens": list(tokens), "whole": is_whole})

    def set_aside(self, say: Say) -> None:
        """Make room for files that are newer elsewhere; what was never uploaded is kept beside."""
        whole = self._note.exists() and read_json(self._note)["whole"]
        (self.state / "uploaded.json").unlink(missing_ok=True)
        there = [path for path in self.root.iterdir() if path.name not in OWN_LOCKS]
        if whole or not there:
            for path in there:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return
        aside = self.state / f"{self.root.name}.superseded-{time.strftime('%Y%m%d-%H%M%S')}"
        aside.mkdir()
        for path in there:
            path.rename(aside / path.name)
        say(f"warning: another machine went on with {self.uri}; what this one had not uploaded lies in {aside}")


def working_copy(place: Path, option: str, cache_dir: Path) -> WorkingCopy | None:
    """Where a run is worked on whose place an option gave; None where that is a folder of this machine."""
    uri = uri_of(place)
    if uri is None:
        return None
    digest = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return WorkingCopy(uri, option, cache_dir.absolute() / "remote-runs" / digest)
