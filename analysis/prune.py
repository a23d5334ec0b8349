"""Delete the logits, soups and fold models that a finished run no longer needs.

    python analysis/prune.py --run RUN            # lists what would go
    python analysis/prune.py --run RUN --yes      # deletes it
    python analysis/prune.py --run RUN --all      # the logits of the shipped members too; with --yes, deletes them

What ships needs none of them: the bundle has its own copies. Kept are the logits of the members that the shipped rule
uses (analysis/cleanse.py reads them; with --all they go too) and everything that is not a shard or weights of a soup or
fold model. No link is followed. A new verdict over all candidates needs the logits stage again. Exit code 2 where
the run is unfinished or broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trainables.command import DebugOption, errors_to_exit, new_app, run_command
from trainables.plain_json import read_object

STAGES = ("search", "soups", "logits", "ensemble", "bundle", "report")  # runs of before there were folds lack those
COST_FILE = "cost.json"  # goes with its shards; trainables.logits.latency, which writes it, imports torch

app = new_app()


@dataclass(frozen=True)
class Plan:
    """What would go: files per candidate; and what is left where it lies, with the reason."""

    unneeded: dict[str, list[Path]]
    left: dict[Path, str]

    @property
    def num_bytes(self) -> int:
        return sum(bytes_of(files) for files in self.unneeded.values())


def bytes_of(files: Sequence[Path]) -> int:
    return sum(path.lstat().st_size for path in files)


def plan(run: Path, *, members_too: bool = False) -> Plan:
    """What pruning `run` would delete. Raises ValueError where a stage is not done or the run's files are broken."""
    stages = _stages(run / "run.json")
    undone = [stage for stage in STAGES if stage not in stages]
    if undone:
        raise ValueError(
            f"only a finished run can be pruned, got {run} without {', '.join(undone)}; finish it first: "
            f"{run_command('--resume', run)}"
        )
    used = shipped_members(run)
    for root in (run / "logits", run / "soups", run / "folds"):
        if root.is_symlink():
            raise ValueError(
                f"{root} must be a folder of the run, got a link, which is not followed; prune where it leads"
            )
    unneeded: dict[str, list[Path]] = {}
    left: dict[Path, str] = {}
    for trial in _folders(run / "logits", left):
        unused = members_too or trial.name not in used
        for split in _folders(trial, left):
            for path in sorted(split.iterdir()):
                half_written = path.name.startswith(".") and path.suffix == ".tmp"
                shard = path.suffix == ".safetensors" or path.name == COST_FILE
                if path.is_symlink() or not path.is_file() or not (half_written or shard):
                    left[path] = "no shard"
                elif unused or half_written:
                    unneeded.setdefault(trial.name, []).append(path)
    for kind in ("soups", "folds"):
        for member in _folders(run / kind, left):
            weights = [path for path in sorted(member.glob("*.safetensors")) if not path.is_symlink()]
            if weights and member.name not in used:
                unneeded[f"{kind}/{member.name}"] = weights
    return Plan(unneeded, left)


def shipped_members(run: Path) -> set[str]:
    """The trials that have a weight in the shipped rule. Raises ValueError where ensemble.json is broken."""
    from analysis.ensembling.result import EnsembleResult

    result = EnsembleResult.read(run / "ensemble.json")
    return {result.members[m].trial for m in result.shipped.fitted.used}


def carry_out(found: Plan) -> None:
    """Delete the plan's files, and the folders that are empty then."""
    for files in found.unneeded.values():
        for path in files:
            path.unlink()
        for folder in dict.fromkeys(path.parent for path in files):
            for each in (folder, folder.parent):  # logits/<trial>/<split>, then logits/<trial>
                if each.is_dir() and not any(each.iterdir()):
                    each.rmdir()


def _folders(parent: Path, left: dict[Path, str]) -> Iterator[Path]:
    """The folders in `parent`, sorted; what is a link or no folder is written down in `left`."""
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if path.is_symlink() or not path.is_dir():
            left[path] = "a link, which is not followed" if path.is_symlink() else "no folder"
        else:
            yield path


def _stages(path: Path) -> Mapping[str, str]:
    """The stages of a run that are done. Raises ValueError where run.json is broken."""
    stages = read_object(path, "give the directory of a finished run").get("stages")
    if not isinstance(stages, dict):
        raise ValueError(f"pruning needs a finished run, got no stages in {path}; give the directory of one")
    return stages


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a finished run.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete the files; without it, they are listed.")] = False,
    members_too: Annotated[bool, typer.Option("--all", help="Also the logits of the shipped members.")] = False,
    debug: DebugOption = False,
) -> None:
    """Delete the logits, soups and fold models that a finished run no longer needs."""
    with errors_to_exit(debug=debug):
        found = plan(run, members_too=members_too)
        lines = [
            f"{trial}: {len(files)} files, {bytes_of(files) / 2**20:.1f} MiB" for trial, files in found.unneeded.items()
        ]
        lines += [f"left: {path} ({reason})" for path, reason in found.left.items()]
        total = f"{sum(map(len, found.unneeded.values()))} files, {found.num_bytes / 2**20:.1f} MiB"
        if yes:
            carry_out(found)
    typer.echo("\n".join([*lines, f"deleted: {total}" if yes else f"would delete {total}; add --yes to do it"]))


if __name__ == "__main__":
    app()
