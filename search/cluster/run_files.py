"""The files of a run as tasks see them, whatever node they run on.

A node that sees the run's folder works in it. On one that does not, a task gets a folder of its own, filled with what
it reads; what it writes there is handed over to the run's folder while it works, and at its end. Of two files the one
that was written first is handed over first, and nothing is deleted in the run's folder before what took its place is
there: so whatever counts as finished on the worker's node counts as finished in the run's folder, seconds later.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from pyarrow.fs import FileSystem
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster.folder_filesystem import filesystem_of
from search.cluster.nodes import Node, live_nodes, on_each
from search.cluster.remote_folder import Entry, FolderService, RemoteFolder
from search.run_dir import RunDir

EVERY_S = 5.0  # between two looks for files to hand over
AT_ONCE = 8  # calls that the service answers
CLIENT = "ray://"
MARKER = ".here-"  # begins the name of a file by which a process knows the run's folder; nothing hidden is uploaded
Say = Callable[[str], None]
Stamp = tuple[int, int]  # when it was changed last (ns), bytes
FOLDER: Stamp = (0, 0)  # of no file


@dataclass(frozen=True)
class RunFiles:
    """A run's folder. By default every node sees it."""

    run: RunDir
    remote: RemoteFolder | None = None  # for nodes that do not see it
    node_id: str = ""  # of the driver's node, which does
    scratch: Path | None = None  # where tasks get folders of their own; None: the system's place for them

    @property
    def is_shared(self) -> bool:
        """Whether every node sees the folder."""
        return self.remote is None

    @property
    def filesystem(self) -> FileSystem | None:
        """What workers of Ray Tune need to leave checkpoints in the folder; None where its path will do."""
        return filesystem_of(self.remote) if self.remote else None

    def where_seen(self, nodes: Sequence[Node]) -> list[Node]:
        """Those of the nodes that stages may use whose tasks read and write all over the folder."""
        return [node for node in nodes if self.is_shared or node.node_id == self.node_id]

    @property
    def placement(self) -> Any:
        """Ray's scheduling strategy for the tasks of such stages."""
        return "DEFAULT" if self.is_shared else NodeAffinitySchedulingStrategy(self.node_id, soft=False)

    @contextmanager
    def at_hand(self, reads: Sequence[Path], writes: Sequence[Path]) -> Iterator[Callable[[Path], Path]]:
        """Within a task: yields where a file or folder of the run lies on this node. `reads` and `writes` are files and
        folders, whether or not they are there; others must not be asked for.

        Raises what kept a file from being handed over, which ends with the body at the latest.
        """
        if self.remote is None or self.remote.is_here:
            yield lambda path: path
            return
        if self.scratch:
            self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="segsearch-task-", dir=self.scratch) as folder:
            copy = _Copy(self.remote, Path(folder), tuple(writes))
            copy.fetch((*reads, *writes))
            with copy.handed_over():
                yield copy.at


@contextmanager
def files_of(run: RunDir, address: str | None, scratch: Path, *, at_uri: bool, say: Say) -> Iterator[RunFiles]:
    """The files of a run in the cluster that this process is connected to; `at_uri`: only the driver's node has them.

    Raises ValueError for a run at a URI whose driver is outside of the cluster.
    """
    if (address or "").startswith(CLIENT):
        if at_uri:
            raise ValueError(
                f"a run at a URI must be started on a machine of the cluster, got --address {address}, whose driver is "
                "outside; submit it with `ray job submit`, or start it on a node with --address auto"
            )
        yield RunFiles(run)  # where the driver is, only a shared disk will do
        return
    if address is None:
        yield RunFiles(run)
        return
    for old in run.root.glob(f"{MARKER}*"):
        old.unlink()  # of a session that was killed
    marker = f"{MARKER}{secrets.token_hex(8)}"
    (run.root / marker).touch()
    try:
        here = ray.get_runtime_context().get_node_id()
        others = [node for node in live_nodes() if node.node_id != here and (node.cpus or node.gpus)]
        seen = on_each(others, _sees, run.root / marker)
        blind = [node.address for node, sees in seen.items() if not sees]
        if not blind and not at_uri:
            yield RunFiles(run)
            return
        if blind:
            say(
                f"{run.root} is not seen on {', '.join(blind)}: trials, folds, soups and logits there hand their files "
                "over through Ray; the ensemble and pseudo stages run on this machine"
            )
        folder = RemoteFolder(run.root, f"segsearch-files-{secrets.token_hex(8)}", marker)
        service = _started(folder, here)
        try:
            yield RunFiles(run, folder, here, scratch)
        finally:
            ray.kill(service)
    finally:
        (run.root / marker).unlink(missing_ok=True)


def _sees(path: Path) -> bool:
    return path.exists()


def _started(folder: RemoteFolder, node_id: str) -> Any:
    """The service of a folder, on the node that has it; it is answering."""
    limits: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": AT_ONCE}
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor: Any = ray.remote(num_cpus=0, **limits)(FolderService)
    service = actor.options(name=folder.actor, scheduling_strategy=there).remote(folder.root)
    ray.get(service.entries.remote([]))
    return service


@dataclass
class _Copy:
    """A task's own folder in place of the run's."""

    remote: RemoteFolder
    folder: Path
    writes: tuple[Path, ...]
    known: dict[Path, Stamp] = field(default_factory=dict)  # what is the same in the run's folder, by its path there

    def at(self, path: Path) -> Path:
        return self.folder / path.relative_to(self.remote.root)

    def fetch(self, paths: Sequence[Path]) -> None:
        """Fill the folder with what there is of these files and folders."""
        found = [entry for entry in self.remote.ask("entries", list(map(str, paths))) if entry is not None]
        for entry in found:
            below = self.remote.ask("below", entry.path, True) if entry.is_folder else [entry]
            for each in below:
                if each.is_folder:
                    self.at(Path(each.path)).mkdir(parents=True, exist_ok=True)
                elif not Path(each.path).name.startswith("."):  # half of a file
                    self.remote.download(each, self.at(Path(each.path)))
        self.known = self._stamps()

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Hands over what the body writes: every EVERY_S seconds, and at its end, however it ends."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(EVERY_S):
                with suppress(OSError, ValueError):  # at the end all is tried again, and what fails then is raised
                    self._hand_over()

        thread = threading.Thread(target=work, name="hand over", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._hand_over()

    def _hand_over(self) -> None:
        gone = self.known.keys() - self._stamps().keys()  # looked for first: what took their place is there by now
        there = self._stamps()
        for path, stamp in sorted(there.items(), key=lambda item: (item[1], item[0])):
            if self.known.get(path) == stamp:
                continue
            if stamp != FOLDER:
                try:
                    self.remote.upload(self.at(path), path)
                except FileNotFoundError:
                    continue  # deleted meanwhile
            self.known[path] = stamp
        for path in sorted(gone, key=lambda path: len(path.parts)):
            self.remote.ask("delete", str(path))
            del self.known[path]

    def _stamps(self) -> dict[Path, Stamp]:
        """What lies under `writes`, but for what is being written, whose name begins with a dot."""
        found = dict[Path, Stamp]()
        for place in self.writes:
            local = self.at(place)
            for path in (local, *_below(local)):
                if (entry := Entry.of(path)) is not None:
                    stamp = FOLDER if entry.is_folder else (entry.changed_ns, entry.size)
                    found[self.remote.root / path.relative_to(self.folder)] = stamp
        return found


def _below(folder: Path) -> Iterator[Path]:
    """All but what is being written, whose name begins with a dot."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in (*folders, *files) if not name.startswith("."))
