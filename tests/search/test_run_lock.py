"""One process at a time works on a run directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import SoftFileLease

from search import run_lock
from search.run_lock import LEASE_S, hold

HOLDER = """
import sys, time
from pathlib import Path
from search.run_lock import LEASE_S, hold
with hold(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_holders_host_and_process(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    expected = rf"process {holder.pid} on host {os.uname().nodename} holds"
    with pytest.raises(ValueError, match=expected), hold(tmp_path, print):
        pass


def test_a_killed_holder_leaves_no_lock(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path, pytest.fail):
        pass
    assert not (tmp_path / "run.lease").exists()


def elsewhere(path: Path) -> None:
    """Make a lease the one of a process on another host."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace(os.uname().nodename, "node7") for line in lines) + "\n")


@pytest.mark.parametrize("alive", [True, False])
def test_a_holder_on_another_host_is_told_by_its_renewals(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS without a lock service: the kernel's lock says nothing of the other host."""
    for name, value in (("LEASE_S", 0.8), ("BEAT_S", 0.1 if alive else 0.7), ("FIRST_TRY_S", 0.1)):
        monkeypatch.setattr(run_lock, name, value)
    other = SoftFileLease(tmp_path / "run.lease", lease_duration=0.8, heartbeat_interval=0.1 if alive else 0.7)
    said: list[str] = []
    with ExitStack() as held:
        other.acquire()
        elsewhere(tmp_path / "run.lease")
        if not alive:
            other._stop_heartbeat()
        if alive:
            with pytest.raises(ValueError, match=r"process \d+ on host node7 holds"):
                held.enter_context(hold(tmp_path, said.append))
        else:
            held.enter_context(hold(tmp_path, said.append))
            assert (tmp_path / "run.lease").exists()
    assert "waiting up to" in said[0]


def test_where_there_are_no_kernel_locks_the_lease_decides(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    renewals = iter(range(1000))
    monkeypatch.setattr(run_lock, "_renewed_ns", lambda lease: next(renewals))
    with pytest.raises(ValueError, match=f"process {holder.pid} on host"), hold(tmp_path, lambda line: None):
        pass


def test_a_process_that_loses_its_lease_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", 0.02)
    with hold(tmp_path, print) as lease:
        (tmp_path / "run.lease").unlink()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5.0)
    assert lease.compromise is not None
    assert lease.compromise.reason == "marker-missing"


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(ValueError, match="must be writable"), hold(tmp_path, print):
        pass


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One folder as two hosts see it over a network disk without a lock service: neither sees the other's kernel
    locks, and file times arrive seconds late."""
    if shutil.which("bindfs") is None or shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root, bindfs and unshare: two mounts of one folder and another host name")
    folders = [tmp_path / name for name in ("disk", "here", "there")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[1:]:
        options = "attr_timeout=3,entry_timeout=3"
        subprocess.run(["bindfs", "-o", options, str(folders[0]), str(folder)], check=True)
    yield folders[1], folders[2]
    for folder in folders[1:]:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.kills
def test_the_lease_alone_holds_a_run_on_a_network_disk_without_kernel_locks(two_hosts: tuple[Path, Path]) -> None:
    here, there = two_hosts
    as_node7 = ["unshare", "--uts", "sh", "-c", 'hostname node7; exec "$@"', "sh"]
    command = [*as_node7, sys.executable, "-c", HOLDER, str(there)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = rf"process {holder.pid} on host node7 holds"
        with pytest.raises(ValueError, match=expected), hold(here, print):  # within one renewal
            pass
        holder.kill()
    said: list[str] = []
    begun = time.monotonic()
    with hold(here, said.append):  # such a disk cannot exchange two names, nor can NFS
        assert time.monotonic() - begun < 2 * LEASE_S
    assert len(said) == 1
    assert "on host node7 held this run last; waiting up to 130 s" in said[0]
