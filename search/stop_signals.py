"""SIGTERM (Slurm, Kubernetes, systemd) ends a run as Ctrl-C does, within the grace that they give.

A scheduler may signal Ray's own processes as well, and a driver that has lost them waits a minute for their answer.
What a run has finished is on disk at any moment, so a driver that is late is ended hard.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_S = 20.0  # Slurm and Kubernetes send SIGKILL after 30 s


class StopSignals:
    """Hands SIGTERM to whatever handles SIGINT at that moment: Ray Tune's handler, which ends trials in order, or
    Python's, which raises KeyboardInterrupt."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.terminated = False
        self.last_words = "stopped"  # said where this process has to be ended hard
        self.ended = threading.Event()

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + (signal.SIGTERM if self.terminated else signal.SIGINT)

    def install(self) -> None:
        """Ray sets a handler of its own when it starts: call this again after it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def caused(self, error: BaseException) -> bool:
        """Whether a signal ended the run. Ray's own handler of SIGTERM raises SystemExit."""
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
            self.terminated = True
            return True
        return isinstance(error, KeyboardInterrupt)

    def _on_sigterm(self, _number: int, frame: FrameType | None) -> None:
        if not self.terminated:
            threading.Thread(target=self._insist, daemon=True).start()
        self.terminated = True
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # ignored, as in a shell's background jobs
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    def _insist(self) -> None:
        if not self.ended.wait(self.grace_s):
            os.write(1, f"{self.last_words}\n".encode())
            os._exit(self.exit_code)


@contextmanager
def stop_signals(grace_s: float = GRACE_S) -> Iterator[StopSignals]:
    """Handle SIGTERM as SIGINT while the body runs, which then has `grace_s` seconds to end."""
    before, signals = signal.getsignal(signal.SIGTERM), StopSignals(grace_s)
    signals.install()
    try:
        yield signals
    finally:
        signals.ended.set()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def interrupt_this_process() -> None:
    """As Ctrl-C does, from any thread."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as in a shell's background jobs
    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
