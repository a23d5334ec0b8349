"""SIGTERM ends a run as Ctrl-C does, with the exit code that shells and schedulers expect."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from search.stop_signals import stop_signals


def test_sigterm_is_a_keyboard_interrupt_of_its_own_exit_code() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert signals.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigint_keeps_its_exit_code() -> None:
    with stop_signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.exit_code == 130


@pytest.mark.parametrize("handled", [True, False])
def test_sigterm_goes_to_whoever_handles_sigint(handled: bool) -> None:
    """As Ray Tune does while it runs; a shell's background job ignores SIGINT instead."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, (lambda number, frame: heard.append(number)) if handled else signal.SIG_IGN)
    try:
        with stop_signals():
            if handled:
                signal.raise_signal(signal.SIGTERM)
            else:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] * handled


def test_rays_exit_on_sigterm_is_a_stop_and_other_exits_are_not() -> None:
    with stop_signals() as signals:
        assert not signals.caused(SystemExit(2))
        assert not signals.terminated
        assert signals.caused(SystemExit(int(signal.SIGTERM)))
        assert signals.exit_code == 143


HANGS = """
import signal, time
from search.stop_signals import stop_signals
with stop_signals(grace_s=0.1) as signals:
    signals.last_words = "go on with: X"
    signal.signal(signal.SIGINT, lambda *_: time.sleep(600))
    signal.raise_signal(signal.SIGTERM)
"""


def test_a_driver_that_hangs_is_ended_within_the_grace() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (143, "go on with: X\n")
