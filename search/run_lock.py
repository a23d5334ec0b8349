"""The lock of a run directory: one process at a time works on it.

Two files. `run.lock` carries the kernel's lock, which ends with its process however that ends, over NFS as well where
the lock service runs. `run.lease` needs no lock service: it names the holder's host and process, and the holder renews
it. A dead holder on this host is told by its process; one on another host by a lease that is no longer renewed.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

from search.stop_signals import interrupt_this_process

LEASE_S = 120.0  # above BEAT_S + 60 s, for which an NFS client may show a file's old time
BEAT_S = 10.0
FIRST_TRY_S = 1.0  # enough to take a dead process's lease over
NO_KERNEL_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def hold(root: Path, say: Callable[[str], None]) -> Iterator[SoftFileLease]:
    """Hold the directory `root` while the body runs. Where the lease is lost meanwhile, this process gets SIGINT
    (SIGTERM where it ignores that), and the lease's `compromise` says why.

    Raises ValueError, naming the holder's host and process, where another process holds it, and where the directory
    cannot be written to.
    """
    lease = SoftFileLease(
        root / "run.lease",
        lease_duration=LEASE_S,
        heartbeat_interval=BEAT_S,
        on_compromise=lambda _loss: interrupt_this_process(),
        thread_local=False,
    )
    with ExitStack() as held:
        try:
            _take_kernel_lock(root, held)
            _take_lease(lease, say)
        except Timeout:
            raise ValueError(
                f"one process at a time may work on a run, got {root}, which {_holder(lease)} holds; wait for it, stop "
                "it there, or start another run with another --run-dir"
            ) from None
        except OSError as error:
            raise ValueError(
                f"the run directory must be writable, got {root} ({error.strerror or error}); make it writable, or "
                "copy it to a place that is"
            ) from error
        held.callback(lease.release)
        yield lease


def _take_kernel_lock(root: Path, held: ExitStack) -> None:
    lock = FileLock(root / "run.lock", fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in NO_KERNEL_LOCKS:
            raise
    else:
        held.callback(lock.release)


class _Watch:
    """What is seen of another host's lease. The first renewal may be a dead holder's last one, which the client of a
    network disk shows late; the second is a sign of life."""

    def __init__(self, lease: SoftFileLease) -> None:
        self.lease = lease
        self.renewed_ns, self.since_s, self.num_renewals = _renewed_ns(lease), time.monotonic(), 0

    def is_decided(self) -> bool:
        now = _renewed_ns(self.lease)
        if now not in (None, self.renewed_ns):
            self.renewed_ns, self.since_s, self.num_renewals = now, time.monotonic(), self.num_renewals + 1
        return self.is_alive or time.monotonic() - self.since_s > LEASE_S + BEAT_S

    @property
    def is_alive(self) -> bool:
        return self.num_renewals > 1


def _take_lease(lease: SoftFileLease, say: Callable[[str], None]) -> None:
    """Raises Timeout where the holder renews it. A lease that is not renewed for LEASE_S is taken over by filelock, or
    here where the disk cannot exchange two names in one step, which filelock needs for it (NFS, SMB)."""
    try:
        lease.acquire(timeout=FIRST_TRY_S, poll_interval=0.05)
    except Timeout:
        say(f"{_holder(lease)} held this run last; waiting up to {LEASE_S + BEAT_S:.0f} s for a sign of life")
        watch = _Watch(lease)
        try:
            lease.acquire(timeout=3 * LEASE_S, poll_interval=min(1.0, BEAT_S), cancel_check=watch.is_decided)
        except Timeout:
            if watch.is_alive or _renewed_ns(lease) != watch.renewed_ns:
                raise
            # whoever else does the same at this moment either comes too late for the rename, or takes a new lease
            # away, whose holder then stops: never do two go on
            aside = Path(f"{lease.lock_file}.expired-{os.uname().nodename}-{os.getpid()}")
            Path(lease.lock_file).rename(aside)
            aside.unlink()
            lease.acquire(timeout=FIRST_TRY_S, poll_interval=0.05)


def _renewed_ns(lease: SoftFileLease) -> int | None:
    """When the lease was renewed last; None where there is none."""
    try:
        return Path(lease.lock_file).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _holder(lease: SoftFileLease) -> str:
    owner = lease.owner
    if owner is None:
        return "another process"
    return f"process {owner.pid} on host {owner.hostname.split('?')[0]}"  # behind '?' stands its process namespace
