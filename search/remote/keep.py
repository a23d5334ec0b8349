"""Keeps a run at its URI while it is worked on in a folder of this machine: from its lock to the last upload.

Whoever had the run's lock last has its newest files: where that was this folder, what was not uploaded yet is uploaded
now; else the folder is filled from the location.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from search.remote.location import Location, StorageError, open_location
from search.remote.mirror import THREADS, Mirror
from search.remote.remote_lock import LOCK, RemoteLock
from search.remote.snapshot import LAST, STUDIES
from search.remote.working_copy import WorkingCopy
from search.run_dir import RunDir
from search.stop_signals import interrupt_this_process

LAST_PATIENCE_S = 10.0  # after Ctrl-C or an error: schedulers give 30 s in all
Say = Callable[[str], None]


@contextmanager
def kept_at(copy: WorkingCopy, *, is_new: bool, resume: str, say: Say) -> Iterator[None]:
    """Keep the run's files complete at its URI while the body works on them here. The folder's own lock must be held.

    Raises ValueError (rule, value, remedy) where the storage does not take writes, holds a run already (`is_new`), is
    worked on by another process, or stays away for longer than `mirror.PATIENCE_S`: then with the command `resume`.
    """
    mirror, lock = _begun(copy, is_new, say)
    try:
        try:
            yield
        except BaseException as error:
            if mirror.failure is not None:
                raise ValueError(_unkept(copy, mirror.failure, resume)) from error
            try:
                _end(copy, mirror, lock, LAST_PATIENCE_S)
            except StorageError as failure:
                say(f"warning: {_unkept(copy, str(failure), resume)}")
            raise
        try:
            _end(copy, mirror, lock, None)
        except StorageError as error:
            raise ValueError(_unkept(copy, str(error), resume)) from None
    finally:
        lock.stop()


def _begun(copy: WorkingCopy, is_new: bool, say: Say) -> tuple[Mirror, RemoteLock]:
    """The lock taken, folder and location at one, and the mirror at work."""
    location = open_location(copy.uri, copy.option)
    mirror = Mirror(RunDir(copy.root), location, copy.state, say, interrupt_this_process)
    lock = RemoteLock(location, mirror.fail)
    try:
        if is_new:
            _check_new(location)
        _take(copy, lock, mirror, say)
    except StorageError as error:
        raise ValueError(
            f"{copy.option} must name storage that exists and takes reads and writes, got {copy.uri}: {error}; create "
            "the bucket, see that the keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) may write "
            "there, and that the server answers"
        ) from None
    return mirror, lock


def _end(copy: WorkingCopy, mirror: Mirror, lock: RemoteLock, patience_s: float | None) -> None:
    mirror.end(patience_s)
    lock.release()
    copy.note([lock.token], is_whole=True)


def _check_new(location: Location) -> None:
    """One that was ended before it had a study may be started anew."""
    there = location.sizes().keys() - {LOCK}
    if any(name in there for name in STUDIES):
        raise ValueError(f"a new run needs a place of its own, got {location.uri}, which holds one; use --resume")
    if there and "run.json" not in there:
        raise ValueError(
            f"a new run needs a place of its own, got {location.uri}, which holds other files, such as {min(there)}; "
            "give another --run-dir"
        )


def _take(copy: WorkingCopy, lock: RemoteLock, mirror: Mirror, say: Say) -> None:
    """Take the lock, make folder and location agree, whichever has the newer files, and begin to upload.

    Whose files they are is written down before the lock is written: one that dies in between can tell.
    """
    location, before = mirror.location, lock.last_token()
    is_ours = before in copy.tokens() or not location.has("run.json")
    if is_ours:
        copy.note([*copy.tokens(), lock.token], is_whole=False)
    else:
        copy.set_aside(say)
        copy.note([], is_whole=True)  # of nobody until all is there
    if lock.take(copy.tokens(), say) != before:
        raise ValueError(f"one process at a time may work on a run, got {copy.uri}, which another one has just taken")
    try:
        if is_ours:
            mirror.forget_all_but(location.sizes().keys())
        else:
            fetch_into(location, copy.root, say)
            mirror.adopt()
        copy.note([lock.token], is_whole=False)
        mirror.start()
    except BaseException:
        lock.release()
        raise


def fetch_into(location: Location, root: Path, say: Say) -> None:
    """Download all files of a run. Raises StorageError."""
    sizes = location.sizes()
    sizes.pop(LOCK, None)
    say(f"fetching {len(sizes)} files, {sum(sizes.values()) / 2**20:.0f} MiB, from {location.uri}")
    first = [name for name in reversed(LAST) if name in sizes]
    for name in first:
        location.download(name, root / name)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: location.download(name, root / name), sorted(sizes.keys() - set(first))))


def _unkept(copy: WorkingCopy, reason: str, resume: str) -> str:
    return (
        f"a run's files must be kept at {copy.uri}, but {reason}; nothing is lost, all that is finished lies in "
        f"{copy.root}; see that the storage answers and nobody else works on the run, then go on from this machine "
        f"with: {resume}"
    )
