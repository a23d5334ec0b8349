from datetime import datetime
from pathlib import Path

import pytest

from search.run_dir import RunDir, clear_unfinished, existing_run_dir, new_run_dir, read_json, write_json
from trainables.files import write_atomically

NOON = datetime(2026, 1, 2, 12, 0, 0)


def test_a_run_is_named_by_its_space_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [new_run_dir("convnext", NOON, None).root for _ in range(3)]
    names = [f"convnext-20260102-120000{number}" for number in ("", "-2", "-3")]
    assert made == [tmp_path / "runs" / name for name in names]


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    write_json(new_run_dir("x", NOON, tmp_path / "a").run_json, {})
    with pytest.raises(ValueError, match="--resume"):
        new_run_dir("x", NOON, tmp_path / "a")


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match="must be writable"):
        new_run_dir("x", NOON, tmp_path / "a")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses root as well")
def test_a_run_directory_on_storage_that_refuses_writes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be writable, got /proc/.*give another with --run-dir"):
        new_run_dir("x", NOON, Path("/proc/segsearch-run"))


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a run directory with a run.json"):
        existing_run_dir(tmp_path)


def test_json_is_written_whole_and_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"a": ["é", 1]})
    assert read_json(path) == {"a": ["é", 1]}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    path.write_text('{"a": [')
    with pytest.raises(ValueError, match=r"run\.json must be JSON"):
        read_json(path)


def test_what_a_killed_session_left_half_written_is_removed(tmp_path: Path) -> None:
    """Whatever an atomic write may leave; nothing else goes, and nothing of Ray's."""
    half: list[Path] = []
    for name in ("ensemble.json", "logits/a/val/x.safetensors", "folds/b/fold-0/best.json", "tune/session-000/a.json"):
        write_atomically(tmp_path / name, lambda temporary: (half.append(temporary), temporary.write_text("whole")))
    for path in half:
        path.write_text("half")  # as where the process had ended before the rename
    (tmp_path / ".mine.tmp").write_text("")
    clear_unfinished(RunDir(tmp_path))
    assert [path.exists() for path in half] == [False, False, False, True]
    assert (tmp_path / "logits/a/val/x.safetensors").read_text() == "whole"
    assert (tmp_path / ".mine.tmp").exists()
