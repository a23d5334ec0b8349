"""Which disks are shared, by tables of mounts as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.engine import study_file
from search.engine.network_disk import shared_file_system
from search.engine.study_file import begin_study
from search.run_dir import JOURNAL, RunDir

MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/runs /shared nfs4 rw,vers=4.2 0 0
/dev/sdb1 /shared/fast xfs rw 0 0
server:/b /with\\040space lustre rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/a", None),
        ("/shared/runs/a", "nfs4"),
        ("/sharedness", None),
        ("/shared/fast/a", None),
        ("/with space/a", "lustre"),
    ],
)
def test_the_deepest_mount_decides(folder: str, kind: str | None) -> None:
    assert shared_file_system(Path(folder), MOUNTS) == kind


def test_nothing_is_known_without_a_table() -> None:
    assert shared_file_system(Path("/a"), "") is None


@pytest.mark.parametrize(
    ("kind", "shared", "name"),
    [("auto", None, "study.db"), ("auto", "nfs4", JOURNAL), ("journal", None, JOURNAL), ("sqlite", None, "study.db")],
)
def test_the_disk_chooses_the_study(
    kind: str, shared: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_file, "shared_file_system", lambda _: shared)
    begin_study(RunDir(tmp_path), kind, print)  # type: ignore[arg-type]
    assert RunDir(tmp_path).study_db.name == name


def test_sqlite_is_refused_on_a_shared_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_file, "shared_file_system", lambda _: "nfs4")
    with pytest.raises(ValueError, match=r"got .* on nfs4.* set it to journal or auto"):
        begin_study(RunDir(tmp_path), "sqlite", print)
    (tmp_path / "study.db").touch()
    said: list[str] = []
    begin_study(RunDir(tmp_path), "sqlite", said.append)  # of an earlier version: it goes on
    assert "keep copies" in said[0]
