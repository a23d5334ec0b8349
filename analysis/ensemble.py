"""The command of `analysis/ensemble.py`: predictions that any tool saved, and a data card, to a verdict.

    python analysis/ensemble.py --logits A B C --labels data.yaml [--out OUT] [--allow-missing]

Enters: one folder a member. Leaves: ensemble.json and confusions.safetensors under OUT, and a table of all rules.
Exit code 2 where the input is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from analysis.ensembling.external_members import collect, judge_members, read_labels
from analysis.ensembling.options import EnsembleOptions


def app(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` as in sys.argv[1:]. Typer takes no list after one option, so argparse does this."""
    asked = _parser().parse_args(argv)
    try:
        options = EnsembleOptions(seed=asked.seed, folds=asked.folds, sample_bytes=asked.sample_mb * 2**20,
                                  postprocess=asked.postprocess)  # fmt: skip
        labels = read_labels(asked.labels)
        members = collect(asked.logits, labels, asked.out, seed=asked.seed, allow_missing=asked.allow_missing, say=_say)
        opened_at = datetime.now(UTC).isoformat(timespec="seconds")
        result = judge_members(members, labels, asked.out, options, opened_at=opened_at, say=_say)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"segsearch: {error}\n")
        raise SystemExit(2) from None
    _say(f"{'rule':20} {'val, fitted':>12} {'cross-fitted':>13} {'hold-out':>9}")
    for rule in result.rules:
        mious = [score.miou for score in (rule.val_fitted, rule.val_crossfit, rule.holdout)]
        scores = [float("nan") if miou is None else miou for miou in mious]
        _say("{:20} {:12.4f} {:13.4f} {:9.4f}".format(rule.name, *scores))
    _say(result.verdict.sentence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ensemble.py", description="Fit and judge every way to join these members.")
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="one folder of predictions a member")
    parser.add_argument("--labels", type=Path, required=True, help="the data card (data.yaml)")
    parser.add_argument("--out", type=Path, default=Path("ensemble"), help="where the result is written")
    parser.add_argument("--allow-missing", action="store_true", help="leave out images that not every member has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--sample-mb", type=int, default=1024, help="memory for the pixels that weights are fitted to")
    parser.add_argument("--postprocess", choices=("off", "auto"), default="auto", help="take specks and holes out of "
                        "the labels where that pays")  # fmt: skip
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    app()
