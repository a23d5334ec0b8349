"""What reaches the location, in which order, and what happens while it is away."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from search.engine.study_file import STUDY_NAME, open_storage
from search.remote import mirror as mirror_module
from search.remote.location import Location, StorageError, open_location
from search.remote.mirror import Mirror
from search.run_dir import RunDir


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return open_location(f"file://{tmp_path}/there", "--run-dir")


def mirror_of(location: Location, tmp_path: Path, **options: object) -> Mirror:
    (tmp_path / "run").mkdir(exist_ok=True)
    failed = threading.Event()
    made = Mirror(RunDir(tmp_path / "run"), location, tmp_path, print, failed.set, **options)  # type: ignore[arg-type]
    made.failed = failed  # type: ignore[attr-defined]
    return made


def study_with_checkpoints(run: RunDir, *paths: str) -> optuna.Study:
    """A study of one running trial for each checkpoint."""
    study = optuna.create_study(study_name=STUDY_NAME, storage=open_storage(run.study_db), direction="maximize")
    for path in paths:
        study.ask().set_user_attr("checkpoint", {"path": path, "epoch": 1})
        (run.root / path).mkdir(parents=True)
        (run.root / path / "best.safetensors").write_text(path)
    return study


def test_files_are_uploaded_once_and_deletions_follow(location: Location, tmp_path: Path) -> None:
    mirror = mirror_of(location, tmp_path)
    root = mirror.run.root
    (root / "logits").mkdir()
    (root / "logits" / "a.safetensors").write_text("a")
    (root / "logits" / ".b.safetensors.17.tmp").write_text("half")
    (root / "run.lock").touch()
    mirror.end()
    assert location.sizes() == {"logits/a.safetensors": 1}
    before = (tmp_path / "there" / "logits" / "a.safetensors").stat().st_mtime_ns
    (root / "report.html").write_text("r")
    mirror_of(location, tmp_path).end()
    assert (tmp_path / "there" / "logits" / "a.safetensors").stat().st_mtime_ns == before
    (root / "logits" / "a.safetensors").unlink()
    mirror_of(location, tmp_path).end()
    assert location.sizes() == {"report.html": 1}


def test_a_checkpoint_counts_from_when_the_study_names_it(location: Location, tmp_path: Path) -> None:
    mirror = mirror_of(location, tmp_path)
    named, other = (f"tune/session-000/00000/checkpoint_00000{n}" for n in (0, 1))
    study_with_checkpoints(mirror.run, named)
    (mirror.run.root / other).mkdir()
    (mirror.run.root / other / "best.safetensors").write_text("half")
    mirror.end()
    assert set(location.sizes()) == {"study.db", f"{named}/best.safetensors"}
    with closing(sqlite3.connect(tmp_path / "there" / "study.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_every_study_there_has_its_checkpoints(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that replaces its checkpoint again and again while it is uploaded, seen from the location after each
    study."""
    monkeypatch.setattr(mirror_module, "EVERY_S", 0.0)
    mirror = mirror_of(location, tmp_path)
    first = "tune/session-000/00000/checkpoint_000000"
    study = study_with_checkpoints(mirror.run, first)
    trial, seen, upload = optuna.Trial(study, study.trials[0]._trial_id), [], Location.upload

    def checked(self: Location, file: Path, name: str) -> None:
        upload(self, file, name)
        if name == "study.db":
            with closing(sqlite3.connect(tmp_path / "there" / name)) as copy:
                (attr,) = copy.execute("SELECT value_json FROM trial_user_attributes").fetchone()
            path = attr.split('"')[3]
            seen.append((path, (tmp_path / "there" / path / "best.safetensors").read_text()))

    monkeypatch.setattr(Location, "upload", checked)
    mirror.start()
    folder = mirror.run.root / first
    end_s = time.monotonic() + 300
    for n in itertools.count(1):
        if len(seen) > 2 or time.monotonic() > end_s:
            break
        newer = folder.with_name(f"checkpoint_{n:06d}")
        newer.mkdir()
        (newer / "best.safetensors").write_text(newer.relative_to(mirror.run.root).as_posix())
        trial.set_user_attr("checkpoint", {"path": newer.relative_to(mirror.run.root).as_posix(), "epoch": n})
        (folder / "best.safetensors").unlink()
        folder.rmdir()
        folder = newer
        time.sleep(0.001 * (n % 20))  # at times quicker than the study can be copied, at times slower
    mirror.end()
    assert len(seen) > 2
    assert all(path == text for path, text in seen)
    assert [name for name in location.sizes() if "checkpoint" in name] == [f"{seen[-1][0]}/best.safetensors"]


def test_a_storage_that_comes_back_is_waited_for(uri: str, door: object, tmp_path: Path) -> None:
    location = open_location(uri, "--run-dir")
    location.write("there", b"")
    mirror = mirror_of(location, tmp_path, patience_s=60.0)
    (mirror.run.root / "trials.csv").write_text("1")
    door.shut()  # type: ignore[attr-defined]
    threading.Timer(3.0, door.open).start()  # type: ignore[attr-defined]
    mirror.end()
    assert location.read("trials.csv") == b"1"


def test_a_storage_that_stays_away_stops_the_run_once(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StorageError("no answer")

    monkeypatch.setattr(mirror_module, "EVERY_S", 0.01)
    monkeypatch.setattr(Location, "upload", away)
    mirror = mirror_of(location, tmp_path, patience_s=1.5)
    (mirror.run.root / "trials.csv").write_text("1")
    mirror.start()
    assert mirror.failed.wait(30)  # type: ignore[attr-defined]
    assert "no answer (tried for" in str(mirror.failure)
    with pytest.raises(StorageError, match="no answer"):
        mirror.end(0.0)
    assert (mirror.run.root / "trials.csv").read_text() == "1"


def test_the_last_pass_waits_for_nothing(location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "WAITS_S", (3600.0, 3600.0))
    mirror = mirror_of(location, tmp_path)
    (mirror.run.root / "trials.csv").write_text("1")
    mirror.end()
    assert location.read("trials.csv") == b"1"
