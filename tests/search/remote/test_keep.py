"""A run's folder and its URI: one machine at a time, and whose files are the newer ones."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from search.remote import keep, mirror, remote_lock
from search.remote.keep import kept_at
from search.remote.location import open_location
from search.remote.working_copy import WorkingCopy, working_copy


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SETTLE_S": 0.0, "BEAT_S": 0.05, "LEASE_S": 0.5}.items():
        monkeypatch.setattr(remote_lock, name, value)


@pytest.fixture
def machines(tmp_path: Path) -> tuple[WorkingCopy, WorkingCopy]:
    """The folders of one run on two machines."""
    place = Path(f"file:///{tmp_path}/there/a")
    found = [working_copy(place, "--resume", tmp_path / name) for name in ("one", "two")]
    for copy in found:
        assert copy is not None
        copy.root.mkdir(parents=True)
    return found[0], found[1]  # type: ignore[return-value]


def held(copy: WorkingCopy, said: list[str] | None = None, **options: Any) -> Any:
    say = print if said is None else said.append
    return kept_at(copy, **{"is_new": False, "resume": "segsearch run --resume URI", "say": say} | options)


def test_a_second_machine_goes_on_with_what_the_first_left(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, two = machines
    with held(one, is_new=True):
        (one.root / "run.json").write_text('{"by": 1}')
        (one.root / "old").write_text("")
    with held(two):
        assert (two.root / "run.json").read_text() == '{"by": 1}'
        (two.root / "run.json").write_text('{"by": 2}')
        (two.root / "old").unlink()
    with held(one):
        assert (one.root / "run.json").read_text() == '{"by": 2}'
        assert not (one.root / "old").exists()


def test_a_run_is_one_machines_at_a_time(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, two = machines
    with held(one), pytest.raises(ValueError, match=r"which process .* holds; wait for it"), held(two):
        pass


def test_a_machine_that_died_is_taken_over_by_itself_at_once_and_by_others_later(
    machines: tuple[WorkingCopy, WorkingCopy], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    with ExitStack() as dead:
        dead.enter_context(held(one))
        monkeypatch.setattr(remote_lock.RemoteLock, "release", remote_lock.RemoteLock.stop)
        (one.root / "run.json").write_text("{}")
    monkeypatch.undo()
    monkeypatch.setattr(remote_lock, "LEASE_S", 0.5)
    monkeypatch.setattr(remote_lock, "SETTLE_S", 0.0)
    said: list[str] = []
    with held(one, said):
        assert not any("sign of life" in line for line in said)
        monkeypatch.setattr(remote_lock.RemoteLock, "release", remote_lock.RemoteLock.stop)
    with held(two, said):
        assert any("sign of life" in line for line in said)
        assert (two.root / "run.json").read_text() == "{}"


def test_who_was_taken_over_stops(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, _ = machines

    def work() -> None:
        with held(one):
            open_location(one.uri, "").write(remote_lock.LOCK, json.dumps({"token": "other"}).encode())
            time.sleep(20)

    with pytest.raises(ValueError, match=r"took its lock, .*go on from this machine with"):
        work()


def test_what_was_not_uploaded_is_uploaded_by_the_next_resume(
    machines: tuple[WorkingCopy, WorkingCopy], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    said: list[str] = []

    def away(*_: object) -> None:
        raise keep.StorageError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(keep, "LAST_PATIENCE_S", 0.0)

        def stopped() -> None:
            with held(one, said):
                (one.root / "run.json").write_text("{}")
                broken.setattr(mirror.Location, "upload", away)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()
    assert "no answer" in said[-1]
    assert "go on from this machine with: segsearch run --resume URI" in said[-1]
    with held(one):
        pass
    with held(two):
        assert (two.root / "run.json").read_text() == "{}"


def test_what_another_machine_overtook_is_kept_aside(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, two = machines
    with held(one):
        (one.root / "run.json").write_text("{}")
    (one.root / "late").write_text("one's own")
    one.note(one.tokens(), is_whole=False)
    with held(two):
        pass
    said: list[str] = []
    with held(one, said):
        assert not (one.root / "late").exists()
    (aside,) = one.state.glob("a.superseded-*")
    assert (aside / "late").read_text() == "one's own"
    assert str(aside) in " ".join(said)


def test_a_new_run_needs_a_place_of_its_own(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, two = machines
    there = open_location(one.uri, "")
    there.write("photograph.png", b"")
    with pytest.raises(ValueError, match=r"other files, such as photograph\.png"), held(two, is_new=True):
        pass
    there.write("study.db", b"")
    with pytest.raises(ValueError, match="which holds one; use --resume"), held(two, is_new=True):
        pass


def test_what_lies_there_and_is_not_the_runs_stays(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, _ = machines
    for content in ("{}", '{"a": 1}'):
        with held(one):
            (one.root / "run.json").write_text(content)
            open_location(one.uri, "").write("notes.txt", b"mine")
    assert open_location(one.uri, "").read("notes.txt") == b"mine"


def test_a_run_that_was_copied_there_by_hand_is_taken_from_there(machines: tuple[WorkingCopy, WorkingCopy]) -> None:
    one, _ = machines
    open_location(one.uri, "").write("run.json", b"{}")
    with held(one):
        assert (one.root / "run.json").read_text() == "{}"
