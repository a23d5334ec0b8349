"""The lock of a run at a URI: one object, `run.remote-lock`, that names its holder and is renewed by it.

Object stores have no locks, and pyarrow no conditional writes. So whoever takes the lock writes it, waits, and has it
if it still stands there; a holder that finds another's name in it stops. Of two that begin at the same moment one goes
on; of two that meet through a delayed write, never both for longer than a renewal.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from search.remote.location import Location, StorageError

LOCK = "run.remote-lock"
BEAT_S = 20.0  # between renewals
LEASE_S = 120.0  # without a renewal, after which the holder counts as dead
SETTLE_S = 1.0  # after which a lock that two wrote names one of them
Say = Callable[[str], None]


@dataclass
class RemoteLock:
    """A lock that this process holds from `take` on."""

    location: Location
    on_loss: Callable[[str], None]
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    _beats: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def last_token(self) -> str | None:
        """Of whoever has it, or had it last; None where nobody had. Raises StorageError."""
        found = self._read()
        return str(found["token"]) if found else None

    def take(self, known: Collection[str], say: Say) -> str | None:
        """Take the lock; -> the token of whoever had it last, None where nobody had. `known` are tokens by which this
        machine had it: that process is dead, since this one holds the lock of the folder that it worked in.

        Raises ValueError where another process renews it, and StorageError.
        """
        found = self._read()
        if found and not found.get("released") and found["token"] not in known:
            self._wait_for_a_sign_of_life(found, say)
        self._write()
        time.sleep(SETTLE_S)
        now = self._read()
        if now is None or now["token"] != self.token:
            raise ValueError(_refusal(self.location.uri, now or {}))
        self._thread = threading.Thread(target=self._renew, name="remote lock", daemon=True)
        self._thread.start()
        return str(found["token"]) if found else None

    def stop(self) -> None:
        """Renew it no longer."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def release(self) -> None:
        """Give it back. The token stays: it tells this machine whether anybody else works on the run meanwhile."""
        self.stop()
        found = self._read()
        if found and found["token"] == self.token:
            self._write(released=True)

    def _wait_for_a_sign_of_life(self, found: dict[str, Any], say: Say) -> None:
        say(f"{_holder(found)} held this run last; waiting up to {LEASE_S:.0f} s for a sign of life")
        end_s = time.monotonic() + LEASE_S
        while time.monotonic() < end_s:
            time.sleep(min(2.0, LEASE_S / 10))
            now = self._read()
            if now is None or now.get("released"):
                return
            if now != found:
                raise ValueError(_refusal(self.location.uri, now))

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                found = self._read()
                if found is None or found["token"] != self.token:
                    self.on_loss(f"{_holder(found or {})} took its lock, {LOCK}")
                    return
                self._write()
            except StorageError:
                continue  # whether the storage stays away is told by `mirror`, which writes there too

    def _read(self) -> dict[str, Any] | None:
        text = self.location.read(LOCK)
        try:
            return json.loads(text) if text else None
        except ValueError:
            return {"token": ""}  # half of another's, or not ours: nobody renews it

    def _write(self, released: bool = False) -> None:
        self._beats += 1
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "beats": self._beats, "released": released}
        self.location.write(LOCK, json.dumps({"token": self.token, **holder}).encode())


def _holder(found: dict[str, Any]) -> str:
    return f"process {found['pid']} on host {found['host']}" if "pid" in found else "another process"


def _refusal(uri: str, found: dict[str, Any]) -> str:
    return (
        f"one process at a time may work on a run, got {uri}, which {_holder(found)} holds; wait for it, stop it "
        "there, or start another run with another --run-dir"
    )
