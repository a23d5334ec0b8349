"""Download a run from a URI into a folder of this machine, for the commands that read one.

    segsearch fetch 's3://bucket/runs/a?region=eu-central-1' --out runs/a

To go on with a run at a URI, give that to `segsearch run --resume`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.run_dir import uri_of
from trainables.command import DebugOption, errors_to_exit, new_app

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="The URI of a run.", metavar="URI")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    debug: DebugOption = False,
) -> None:
    """Download a run from s3://, gs:// or another URI, for the commands that read a run's folder."""
    with errors_to_exit(debug=debug):
        fetch(run, out.expanduser().resolve())
    typer.echo(f"run: {out}")


def fetch(run: Path, out: Path) -> None:
    """Download a run into a folder of its own, whole or not at all. Raises ValueError where there is no run at the URI,
    or something in the folder, and StorageError."""
    uri = uri_of(run)
    if uri is None:
        raise ValueError(
            f"fetch needs the URI of a run, such as s3://bucket/runs/a, got {run}, a folder of this machine"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out must be a new folder, got {out}, which holds something; choose another")
    from search.remote.keep import fetch_into
    from search.remote.location import open_location
    from trainables.files import folder_made_whole

    location = open_location(uri, "URI")
    if not location.has("run.json"):
        raise ValueError(
            f"fetch needs a run with a run.json, got {uri}, where there is none; see its name and the keys"
        )
    with folder_made_whole(out) as folder:
        fetch_into(location, folder, typer.echo)


if __name__ == "__main__":
    app()
