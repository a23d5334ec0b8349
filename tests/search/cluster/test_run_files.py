"""What tasks read and write of a run on a node that does not see its folder. No process here sees the marker."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import ray
import torch

from search.cluster import run_files as run_files_module
from search.cluster.folder_filesystem import filesystem_of
from search.cluster.nodes import Node
from search.cluster.remote_folder import CHUNK_BYTES, FolderService, RemoteFolder
from search.cluster.run_files import RunFiles, files_of
from search.engine.tuner import run_search
from search.observers.trial_row import TrialRow
from search.run_dir import RunDir
from search.space.options import Resources
from search.stages import soups
from trainables.files import UNFINISHED, write_text
from trainables.models.weights_file import save_weights
from trainables.training.soup import Ingredient, Plan

LARGE = CHUNK_BYTES + 12345


@pytest.fixture
def files(local_ray: None, tmp_path: Path) -> Iterator[RunFiles]:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    with files_of(run, "here", tmp_path / "scratch", at_uri=True, say=print) as files:
        (hidden,) = run.root.iterdir()
        hidden.unlink()
        yield files
        hidden.touch()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_goes_to_the_folder_and_back_as_ray_tune_copies_it(files: RunFiles, tmp_path: Path) -> None:
    folder, there = tmp_path / "checkpoint", files.run.tune / "session-000" / "00001" / "checkpoint_000003"
    content = {"state.pt": secrets.token_bytes(LARGE), "best.safetensors": b"", "deep/er.json": b"{}"}
    for name, each in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(each)
    filesystem = files.filesystem
    filesystem.create_dir(str(there))
    pyarrow.fs.copy_files(str(folder), str(there), destination_filesystem=filesystem)
    assert {name: (there / name).read_bytes() for name in names(there)} == content
    pyarrow.fs.copy_files(str(there), str(tmp_path / "back"), source_filesystem=filesystem)
    assert {name: (tmp_path / "back" / name).read_bytes() for name in names(tmp_path / "back")} == content


def described(found: list[pyarrow.fs.FileInfo]) -> list[tuple[object, ...]]:
    return [(info.path, info.type, info.size, info.mtime_ns) for info in found]


def test_the_file_system_answers_as_that_of_the_disk(files: RunFiles) -> None:
    root, remote, disk = files.run.root, files.filesystem, pyarrow.fs.LocalFileSystem()
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c").write_text("see")
    asked = [str(root / "a"), str(root / "a" / "b" / "c"), str(root / "none")]
    assert described(remote.get_file_info(asked)) == described(disk.get_file_info(asked))
    for recursive in (True, False):
        selector = pyarrow.fs.FileSelector(str(root / "a"), recursive=recursive)
        assert described(remote.get_file_info(selector)) == described(disk.get_file_info(selector))
    with pytest.raises(FileNotFoundError):
        remote.open_input_file(str(root / "none"))
    remote.copy_file(str(root / "a" / "b" / "c"), str(root / "d"))
    remote.move(str(root / "d"), str(root / "e"))
    remote.delete_dir(str(root / "a"))
    assert names(root) == ["e"]
    assert (root / "e").read_text() == "see"
    assert filesystem_of(files.remote) == remote  # type: ignore[arg-type]


def test_a_task_finds_what_it_reads_and_leaves_what_it_writes(files: RunFiles) -> None:
    weights, folder = files.run.root / "tune" / "best.safetensors", files.run.root / "folds" / "m"
    weights.parent.mkdir()
    weights.write_text("weights")
    (folder / "fold-0" / "epoch-0001").mkdir(parents=True)
    (folder / "fold-0" / "epoch-0001" / "state.pt").write_text("1")
    (folder / "fold-1.safetensors").write_text("another task's")
    with files.at_hand([weights], [folder / "fold-0", folder / "fold-0.safetensors"]) as at:
        assert not at(folder).is_relative_to(files.run.root)
        assert at(weights).read_text() == "weights"
        assert names(at(folder)) == ["fold-0/epoch-0001/state.pt"]
        (at(folder) / "fold-0" / "epoch-0002").mkdir()
        (at(folder) / "fold-0" / "epoch-0002" / "state.pt").write_text("2")
        (at(folder) / "fold-0" / "epoch-0001" / "state.pt").unlink()
        (at(folder) / "fold-0" / "epoch-0001").rmdir()
        (at(folder) / "fold-0" / ".half.123.tmp").write_text("not yet")
        (at(folder) / "fold-0.safetensors").write_text("done")
        left = at(folder)
    assert not left.exists()
    assert names(folder) == ["fold-0.safetensors", "fold-0/epoch-0002/state.pt", "fold-1.safetensors"]
    assert not (folder / "fold-0" / "epoch-0001").exists()


def test_what_a_task_has_finished_is_kept_when_it_fails_and_while_it_works(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_files_module, "EVERY_S", 0.05)
    folder = files.run.root / "logits"

    def work() -> None:
        with files.at_hand([], [folder]) as at:
            at(folder).mkdir()
            (at(folder) / "one").write_text("1")
            while not (folder / "one").exists():
                time.sleep(0.01)
            (at(folder) / "two").write_text("2")
            raise OSError("the node is ill")

    with pytest.raises(OSError, match="the node is ill"):
        work()
    assert names(folder) == ["one", "two"]


def test_files_arrive_in_the_order_in_which_they_were_written(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description that says that all is there must not be there first."""
    arrived: list[str] = []
    upload = RemoteFolder.upload

    def record(self: RemoteFolder, source: Path, target: Path) -> None:
        arrived.append(target.name)
        upload(self, source, target)

    monkeypatch.setattr(RemoteFolder, "upload", record)
    folder = files.run.soups / "soup-00001"
    with files.at_hand([], [folder]) as at:
        at(folder).mkdir(parents=True)
        for second, name in enumerate(("z.safetensors", "y.json", "soup.json")):
            (at(folder) / name).write_text(name)
            os.utime(at(folder) / name, (second, second))
    assert arrived == ["z.safetensors", "y.json", "soup.json"]


def test_a_service_that_died_is_there_again(files: RunFiles, tmp_path: Path) -> None:
    assert files.remote is not None
    service = ray.get_actor(files.remote.actor)
    ray.kill(service, no_restart=False)
    (tmp_path / "file").write_text("here")
    files.remote.upload(tmp_path / "file", files.run.root / "file")
    assert (files.run.root / "file").read_text() == "here"


def test_a_call_that_is_repeated_does_no_harm(tmp_path: Path) -> None:
    service, half, whole = FolderService(tmp_path), str(tmp_path / ".a.1.tmp"), str(tmp_path / "a")
    for _ in range(2):
        service.write(half, 0, b"abc")
    assert UNFINISHED.fullmatch(Path(half).name)  # a resumed run removes it
    for _ in range(2):
        service.rename(half, whole)
    assert service.read(whole, 1, 5) == b"bc"
    for _ in range(2):
        service.delete(whole)
    assert names(tmp_path) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/../secret", "{root}2/file"])
def test_nothing_outside_of_the_folder_is_touched(path: str, tmp_path: Path) -> None:
    service, wanted = FolderService(tmp_path / "run"), path.format(root=tmp_path / "run")
    for ask in (lambda: service.read(wanted, 0, 1), lambda: service.delete(wanted), lambda: service.entries([wanted])):
        with pytest.raises(ValueError, match="a worker's files must lie in"):
            ask()


def test_a_node_that_sees_the_folder_works_in_it(local_ray: None, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with files_of(run, "here", tmp_path, at_uri=True, say=print) as files, files.at_hand([], [run.soups]) as at:
        assert at(run.soups) == run.soups
        assert files.where_seen([Node(1, node_id=files.node_id), Node(1, node_id="other")]) == [
            Node(1, node_id=files.node_id)
        ]
    assert list(tmp_path.iterdir()) == []


def test_on_one_machine_or_a_shared_disk_there_is_no_service(local_ray: None, tmp_path: Path) -> None:
    for address, at_uri in ((None, True), ("here", False), ("ray://head:10001", False)):
        with files_of(RunDir(tmp_path), address, tmp_path, at_uri=at_uri, say=print) as files:
            assert (files.is_shared, files.filesystem, files.placement) == (True, None, "DEFAULT")


def test_a_driver_outside_of_the_cluster_is_refused_at_a_uri(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be started on a machine of the cluster, got --address ray://head:1"):
        files_of(RunDir(tmp_path), "ray://head:1", tmp_path, at_uri=True, say=print).__enter__()


def test_a_search_leaves_its_checkpoints_and_goes_on_from_them(files: RunFiles, toy: Any) -> None:
    def search(num_trials: int) -> list[TrialRow]:
        space = toy.space_of(num_trials=num_trials, max_concurrent=1)
        return run_search(space, toy.ToyPolicy(), toy.make_trainable(), files, resume=num_trials > 2)

    for rows in (search(2), search(3)):
        assert {row.state for row in rows} <= {"COMPLETE", "PRUNED"}
        for row in rows:
            assert json.loads((Path(str(row.checkpoint)) / "state.json").read_text())["epoch"] == row.epochs
    assert len(list(files.run.tune.glob("session-*/*/checkpoint_*"))) == 3  # the last of each trial


def test_a_soup_reads_and_writes_in_the_tasks_own_folder(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = files.run.tune / "1" / "best.safetensors"
    weights.parent.mkdir(parents=True)
    save_weights(weights, {"a": torch.ones(2)})
    made = Ingredient(trial="00001", epoch=1, miou=0.5, weights=weights)

    def make_soup(plan: Plan, cache: Any, split: Any, folder: Path, *, device: str, read: Any) -> float:
        assert not folder.is_relative_to(files.run.root)
        write_text(folder / "soup.json", str(plan.ingredients[0].weights))
        return float(read(plan.ingredients[0].weights)["a"].sum())

    monkeypatch.setattr(soups, "make_soup", make_soup)
    plan = Plan("soup-00001", recipe=None, ingredients=(made,))  # type: ignore[arg-type]
    assert soups.make_one(plan, None, None, files, Resources()) == 2.0  # type: ignore[arg-type, comparison-overlap]
    assert (files.run.soups / "soup-00001" / "soup.json").read_text() == str(weights)
