"""The parts of ensemble.json (format segsearch-ensemble/1), and its writing.

Enters: members, votes, resampled scores, counts (N,K,K) int64. Leaves: JSON-able values, and the two files of a
run's ensemble, each written beside its target and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from analysis.ensembling.bootstrap import Resampled, gain, summary
from analysis.ensembling.costs import Costs
from analysis.ensembling.crossfit import Folds
from analysis.ensembling.crossfit_rules import Choice
from analysis.ensembling.verdict import signed
from analysis.ensembling.view_selection import Visited
from analysis.voting.view_config import Views
from trainables.data.index import Split
from trainables.logits.store import LogitStore
from trainables.metrics import miou

FORMAT = "segsearch-ensemble/1"
FAIR_RIVAL = "best_single_class"  # a gain over the best single model may be no more than a repaired class prior
Counts = NDArray[np.int64]


def members_part(
    val: Sequence[LogitStore],
    views: Views,
    val_miou: Sequence[float],
    costs: Costs,
    ingredients: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """A row a candidate, best first: `views` are its own best ones, `val_miou` that of its plain view."""
    headers = [store.header for store in val]
    return [
        {
            "trial": header.trial,
            "recipe_hash": header.recipe_hash,
            "family": header.family,
            "views": list(names),
            "val_miou": score,
            "costs": dict(one),
            **({"ingredients": list(ingredients[header.trial])} if header.trial in ingredients else {}),
        }
        for header, names, score, one in zip(headers, views, val_miou, costs.of, strict=True)
    ]


def rules_part(
    choices: Mapping[str, Choice],
    scored: Mapping[str, Mapping[str, Resampled]],
    costs: Costs,
    post: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """A row a rule, from plain to rich; `scored` is scoring ("val_fitted", ...) -> rule -> scores. Where `post`, the
    part of post-processing, was kept, the last row is the taken rule with it."""
    rows: list[dict[str, Any]] = []
    for name, choice in choices.items():
        gains = {
            f"{what}_{short}": gain(scored[long][name], scored[long][over])
            for short, long in (("crossfit", "val_crossfit"), ("holdout", "holdout"))
            for what, over in (("gain", "best_single"), ("gain_over_rival", FAIR_RIVAL))
        }
        rows.append(
            {
                "name": name,
                "vote": choice.vote.kind,
                "weights": choice.vote.weights.astype(float).tolist(),  # float32 values, exactly
                "views": [list(names) for names in choice.look.views],
                "cost": costs.total(choice.used_views),
                "temperatures": list(choice.look.temperatures),  # (M,) by which logits are divided before the softmax
                **{scoring: summary(by_rule[name]) for scoring, by_rule in scored.items()},
                **gains,
            }
        )
    if post["kept"]:
        rows[-1] |= {"of": post["rule"], "postprocess": post["steps"]}
    return rows


def pareto_part(visited: Sequence[Visited], val: Sequence[LogitStore]) -> list[dict[str, Any]]:
    """The plain views of single members, and every ensemble of the search that none beats in both cost and
    cross-fitted mIoU (`front`), from cheap to dear. `ms` is in the file's cost_unit."""
    trials = [store.header.trial for store in val]
    rows: list[dict[str, Any]] = []
    best = -1.0
    for one in sorted(visited, key=lambda v: (v.cost, -v.miou_crossfit)):
        alone = sum(len(views) for views in one.views) == 1
        front = one.miou_crossfit > best
        best = max(best, one.miou_crossfit)
        used = [m for m, views in enumerate(one.views) if views]
        row = {
            "ms": one.cost,
            "miou_fitted": one.miou_fitted,
            "miou_crossfit": one.miou_crossfit,
            "members": [trials[m] for m in used],
            "views": [list(one.views[m]) for m in used],
            "front": front,
        }
        if (alone or front) and row["views"] not in [r["views"] for r in rows if r["members"] == row["members"]]:
            rows.append(row)
    return rows


def holdout_part(ids: Sequence[str], unseen: Mapping[str, Counts], shipped: str) -> dict[str, Any]:
    """The shipped rule's counts on the hold-out, and each image's mIoU under the best single model and under it."""
    pairs = zip(ids, miou(unseen["best_single"]), miou(unseen[shipped]), strict=True)
    return {
        "confusion": {"split": "holdout", "rule": shipped, "counts": unseen[shipped].sum(0).tolist()},
        "images": [
            {"image_id": i, "miou_single": _known(alone), "miou_shipped": _known(ship)} for i, alone, ship in pairs
        ],
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def caveats(
    found: Sequence[str | None],
    ledger: Sequence[Mapping[str, str]],
    verdict: Mapping[str, Any],
    holdout: Mapping[str, Resampled],
    taken: str,
) -> list[str]:
    """What a reader of the verdict has to know, in words; `found` has those of the folds and the intervals, `taken` is
    the rule that the ladder took."""
    words = [caveat for caveat in found if caveat]
    if len(ledger) > 1:
        words.append(
            f"the hold-out was opened before ({len(ledger) - 1} times, first at {ledger[0]['at']}): what was learnt "
            "from it then may have gone into this run"
        )
    if verdict["ship"] == "ensemble":  # one that only repairs a class prior is not a gain
        step = gain(holdout[verdict["rule"]], holdout[FAIR_RIVAL])
        doubt = "" if step["low"] > 0 else ", an interval that does not lie above 0"
        words.append(
            f"over the best single model with class weights, the fair rival, the ensemble gains {signed(step)}{doubt}"
        )
    if verdict["rule"] not in ("best_single", taken):
        part = signed(gain(holdout[verdict["rule"]], holdout[taken]))
        words.append(
            f"of the gain, post-processing makes {part} over {taken} without it; the best single model that both are "
            "compared with was not post-processed"
        )
    return words


def open_holdout(out_dir: Path, at: str, by: str) -> list[dict[str, str]]:
    """Writes this opening down before any label of the hold-out is read; returns all openings, oldest first."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "holdout_opened.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"at": at, "by": by}) + "\n")
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(
    out_dir: Path, result: Mapping[str, Any], counts: Mapping[str, Mapping[str, Counts]], split: Split, folds: Folds
) -> None:
    """confusions.safetensors first, so that where ensemble.json is the other is too. `counts` is scoring -> rule ->
    (N,K,K)."""
    meta = {
        "classes": json.dumps(result["classes"]),
        "val_ids": json.dumps(split.val_ids),
        "val_folds": json.dumps(folds.of_image.tolist()),
        "holdout_ids": json.dumps(split.holdout_ids),
    }
    tensors = {
        f"{rule}/{scoring}": np.ascontiguousarray(array)
        for scoring, by_rule in counts.items()
        for rule, array in by_rule.items()
    }
    partial = out_dir / ".confusions.safetensors.partial"
    save_file(tensors, partial, meta)
    partial.replace(out_dir / "confusions.safetensors")
    partial = out_dir / ".ensemble.json.partial"
    partial.write_text(json.dumps(result, indent=1, allow_nan=False))
    partial.replace(out_dir / "ensemble.json")
