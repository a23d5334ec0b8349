"""Keeps the files of a run complete at its location, from a thread of the driver.

Uploads what has changed, in the order of `snapshot`, then deletes what is gone. Where the storage fails it tries again
after growing waits for PATIENCE_S; only then is the run stopped, with everything kept in its folder on this machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from search.remote.location import Location, StorageError
from search.remote.snapshot import Item, Stamp, stamps, take
from search.run_dir import RunDir, read_json, write_json

EVERY_S = 5.0  # between two passes
SHARE = 0.5  # of the time, which passes may take where they take long
PATIENCE_S = 600.0  # without the storage, before the run is stopped
WAITS_S = (1.0, 30.0)  # the first and the longest wait before another try
THREADS = 8
UNKNOWN: Stamp = (-1, -1)  # of no file
Say = Callable[[str], None]


@dataclass
class Mirror:
    """A run's folder and its location. `failure` says why the run cannot go on."""

    run: RunDir
    location: Location
    state: Path  # a folder on the same disk: what is uploaded, and copies meanwhile
    say: Say
    on_failure: Callable[[], None]
    patience_s: float = PATIENCE_S
    failure: str | None = None
    uploaded: dict[str, Stamp] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        if self._list.exists():
            stored = read_json(self._list)["files"]
            self.uploaded = {name: (size, changed) for name, (size, changed) in stored.items()}

    @property
    def _list(self) -> Path:
        return self.state / "uploaded.json"

    def forget_all_but(self, there: Set[str]) -> None:
        """Somebody may have deleted files at the location. What else lies there is not this run's and never touched."""
        self.uploaded = {name: stamp for name, stamp in self.uploaded.items() if name in there}

    def adopt(self) -> None:
        """The folder was just filled from the location: nothing is to be uploaded."""
        self.uploaded = stamps(self.run)

    def start(self) -> None:
        """Begin to upload, in a thread."""
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def fail(self, reason: str) -> None:
        """Stop the run. Callable from any thread; the first reason stays."""
        self.failure = self.failure or reason
        self._stop.set()
        self.on_failure()

    def end(self, patience_s: float | None = None) -> None:
        """Upload what is left, and stop. Raises StorageError where that does not work within `patience_s`, and after a
        failure."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.failure is None:
            self._persist(self.patience_s if patience_s is None else patience_s, threading.Event())
        if self.failure is not None:
            raise StorageError(self.failure)

    def _work(self) -> None:
        rest_s = EVERY_S
        while not self._stop.wait(rest_s):
            begun_s = time.monotonic()
            try:
                self._persist(self.patience_s, self._stop)
            except Exception as error:  # whatever it is, a run whose files are not kept must not go on unnoticed
                self.fail(str(error))
            rest_s = max(EVERY_S, (time.monotonic() - begun_s) * (1 - SHARE) / SHARE)

    def _persist(self, patience_s: float, stop: threading.Event) -> None:
        """A pass, tried again after growing waits. Raises StorageError where it fails for `patience_s`."""
        begun_s, wait_s = time.monotonic(), WAITS_S[0]
        while True:
            try:
                is_whole = self._pass()
            except StorageError as error:
                away_s = time.monotonic() - begun_s
                if away_s + wait_s > patience_s:
                    raise StorageError(f"{error} (tried for {away_s:.0f} s)") from None
                if wait_s == WAITS_S[0]:
                    self.say(f"warning: {self.location.uri} does not answer; trying for {patience_s:.0f} s: {error}")
            else:
                if wait_s > WAITS_S[0]:
                    self.say(f"{self.location.uri} answers again")
                if is_whole or stop is self._stop:
                    return
            if stop.wait(wait_s):
                return
            wait_s = min(2 * wait_s, WAITS_S[1])

    def _pass(self) -> bool:
        """Whether there was a moment to copy the study at; where not, the next pass will do."""
        taken = take(self.run, self.state / "staging", self.uploaded)
        if taken is None:
            return False
        changed = [item for item in taken.items if self.uploaded.get(item.name) != item.stamp]
        gone = sorted(self.uploaded.keys() - taken.names)
        last = [item for item in taken.last if self.uploaded.get(item.name) != item.stamp]
        if not (changed or gone or last):
            return True
        self.uploaded |= {item.name: UNKNOWN for item in (*changed, *last)}
        self._note()  # so that one that dies now knows what may be there
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(self._upload, changed))
            for item in last:
                self._upload(item)
            for name in gone:
                self._delete(name)
        finally:
            self._note()
        return True

    def _note(self) -> None:
        write_json(self._list, {"files": self.uploaded})

    def _delete(self, name: str) -> None:
        if self.failure is None:
            self.location.delete(name)
            del self.uploaded[name]

    def _upload(self, item: Item) -> None:
        if self.failure is not None:
            return  # another process may have the lock by now
        try:
            self.location.upload(item.source, item.name)
        except FileNotFoundError:
            return  # deleted meanwhile: nothing uploaded so far names it
        self.uploaded[item.name] = item.stamp
