"""Delete the logits that a finished run no longer needs.

    python analysis/prune.py --run RUN            # lists what would go
    python analysis/prune.py --run RUN --yes      # deletes it
    python analysis/prune.py --run RUN --all      # the logits of the ensemble's members too; with --yes, deletes them

Enters: the directory of a run whose stages are all done. Leaves: its logits/ without the shards of trials that are not
members in ensemble.json, and without half-written files; with --all, without any. The bundle and the report need none
of them; a new verdict and analysis/cleanse.py need the members'. Nothing else is touched, no link is followed, and
what is not a shard stays. Exit code 2 where the run is unfinished or broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

STAGES = ("search", "logits", "ensemble", "bundle", "report")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Plan:
    """What would go: files a trial; and what is left where it lies, with the reason."""

    doomed: dict[str, list[Path]]
    left: dict[Path, str]

    @property
    def num_bytes(self) -> int:
        return sum(bytes_of(files) for files in self.doomed.values())


def bytes_of(files: Sequence[Path]) -> int:
    return sum(path.lstat().st_size for path in files)


def plan(run: Path, *, members_too: bool = False) -> Plan:
    """What pruning `run` would delete. Raises ValueError where a stage is not done or the run's files are broken."""
    stages = _read(run / "run.json", "stages")
    undone = [stage for stage in STAGES if stage not in stages]
    if undone:
        raise ValueError(
            f"only a finished run may lose its logits, got {run} without {', '.join(undone)}; end it first: "
            f"python search/run.py --resume {run}"
        )
    members = {member["trial"] for member in _read(run / "ensemble.json", "members")}
    root = run / "logits"
    if root.is_symlink():
        raise ValueError(f"{root} must be a folder of the run, got a link, which is not followed; prune where it leads")
    doomed: dict[str, list[Path]] = {}
    left: dict[Path, str] = {}
    for trial in _folders(root, left):
        for split in _folders(trial, left):
            for path in sorted(split.iterdir()):
                half_written = path.name.startswith(".") and path.suffix == ".tmp"
                if path.is_symlink() or not path.is_file() or not (half_written or path.suffix == ".safetensors"):
                    left[path] = "no shard"
                elif members_too or half_written or trial.name not in members:
                    doomed.setdefault(trial.name, []).append(path)
    return Plan(doomed, left)


def carry_out(run: Path, found: Plan) -> None:
    """Deletes the plan's files, and the folders that are empty then."""
    root = run / "logits"
    for trial, files in found.doomed.items():
        for path in files:
            path.unlink()
        for folder in (*dict.fromkeys(path.parent for path in files), root / trial):
            if not any(folder.iterdir()):
                folder.rmdir()


def _folders(parent: Path, left: dict[Path, str]) -> Iterator[Path]:
    """The folders in `parent`, sorted; what is a link or no folder is written down in `left`."""
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if path.is_symlink() or not path.is_dir():
            left[path] = "a link, which is not followed" if path.is_symlink() else "no folder"
        else:
            yield path


def _read(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"pruning needs a finished run, got no whole {path} ({type(error).__name__}); give the directory of one"
        ) from None


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a finished run.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, what would go is listed.")] = False,
    members_too: Annotated[bool, typer.Option("--all", help="The logits of the ensemble's members too.")] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Delete the logits that a finished run no longer needs."""
    try:
        found = plan(run, members_too=members_too)
        lines = [
            f"{trial}: {len(files)} files, {bytes_of(files) / 2**20:.1f} MiB" for trial, files in found.doomed.items()
        ]
        lines += [f"left: {path} ({reason})" for path, reason in found.left.items()]
        total = f"{sum(map(len, found.doomed.values()))} files, {found.num_bytes / 2**20:.1f} MiB"
        if yes:
            carry_out(run, found)
    except (ValueError, OSError) as error:
        if debug:
            raise
        typer.secho(f"prune: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
    typer.echo("\n".join([*lines, f"deleted: {total}" if yes else f"would delete {total}; add --yes to do it"]))


if __name__ == "__main__":
    app()
