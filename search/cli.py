"""The console command `segsearch`: one subcommand per script.

    segsearch run --space convnext.yaml --data data.yaml
    segsearch --help

Every subcommand is the function behind the script of its name: `segsearch eda` is `python analysis/eda.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from analysis import cleanse, convert, eda, ensemble, init, mix, predict, prune, split, submission
from search import audit, distil, export, fetch, portfolio, pseudo, report, run, serve, show_space, table
from trainables.command import new_app

if TYPE_CHECKING:
    from analysis.prediction.run_batches import BatchRunner


def joined(address: str) -> AbstractContextManager[BatchRunner]:
    """The cluster of `predict --address`; Ray is imported for it alone."""
    from search.cluster.predict_batches import joined_cluster

    return joined_cluster(address)


app = new_app()
app.info.help = "Search for the best ensemble of segmentation models, judge it on held-out images, export it."
app.command("run")(run.run)
app.command("init")(init.main)
app.command("space")(show_space.main)
app.command("convert")(convert.main)
app.command("eda")(eda.main)
app.command("split")(split.main)
app.command("mix")(mix.main)
app.command("cleanse")(cleanse.main)
app.command("ensemble")(ensemble.main)
app.command("predict", context_settings={"obj": joined})(predict.main)
app.command("fetch")(fetch.main)
app.command("serve")(serve.main)
app.command("export")(export.main)
app.command("report")(report.main)
app.command("audit")(audit.main)
app.command("table")(table.main)
app.command("portfolio")(portfolio.main)
app.command("distil")(distil.main)
app.command("pseudo")(pseudo.main)
app.command("prune")(prune.main)
app.add_typer(submission.app, name="submission", help="Write submissions; record their scores beside a run's own.")
app.command("schema")(run.schema)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="segsearch")


if __name__ == "__main__":
    main()
