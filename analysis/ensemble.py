"""From the candidates' logits to a verdict that holds: fits every rule on val, cross-fits it, opens the hold-out
once.

Enters: one `LogitStore` a candidate for val and for the hold-out, a source of labels, the index and the split.
Leaves: `ensemble.json` (format segsearch-ensemble/1: every rule's weights, scores with intervals and gains, and the
verdict) and `confusions.safetensors` (counts (N,K,K) int64 a rule and scoring). At no time does this process hold more
than the fitting sample (`sample_bytes`), the counts of its V votes (4 N V K K bytes, and about as much for the rules'
own), the resamples (2 bytes a resample and image), and the probabilities of one image; where `spread` reads the images
elsewhere, these are there.

    ensemble = fit_ensemble(val_stores, holdout_stores, cache, index, split, EnsembleOptions(), background=True,
                            out_dir=run_dir, opened_at="2025-01-31T12:00:00+00:00")

As a command it judges predictions that any tool saved (`alone`, `foreign`):

    python analysis/ensemble.py --logits A B C --labels data.yaml --out OUT
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from analysis.crossfit import Images, make_folds
from analysis.ensemble_file import (
    FORMAT,
    caveats,
    holdout_part,
    members_part,
    open_holdout,
    pareto_part,
    rules_part,
    write,
)
from analysis.fitting import fit_val
from analysis.latency import costs_of
from analysis.passes import Ballot, LabelSource, Look, Report, score_images
from analysis.sampling import draw_sample
from analysis.sights import choose_sights
from analysis.spread import HERE, Spread, device_caveat
from analysis.tta import plain_view
from analysis.verdict import climb, draw, gain, judge, resample
from analysis.voting import Vote, single
from trainables.data.index import SegIndex, Split
from trainables.logits import LogitStore, check_together
from trainables.metrics import miou
from trainables.recipe import Part


class EnsembleOptions(Part):
    """How the ensemble is fitted and judged. Equal options and logits give equal results."""

    seed: int = 0
    folds: Annotated[int, Field(ge=2)] = 5
    resamples: Annotated[int, Field(ge=100)] = 2000
    sample_bytes: Annotated[int, Field(ge=2**20)] = 2**30
    views: tuple[str, ...] | None = None  # names to choose from; every view that was predicted where None
    latency_budget_ms: Annotated[float, Field(gt=0.0)] | None = None  # an image; None: no limit
    temperature: Literal["off", "auto"] = "auto"  # auto: calibrated members are offered, and taken where they pay
    max_sweeps: Annotated[int, Field(ge=1)] = 20


def fit_ensemble(
    stores_val: Sequence[LogitStore],
    stores_holdout: Sequence[LogitStore],
    labels: LabelSource,
    index: SegIndex,
    split: Split,
    options: EnsembleOptions,
    *,
    background: bool,
    out_dir: Path,
    opened_at: str,
    opened_by: str = "analysis/ensemble.py",
    notes: Sequence[str] = (),  # further caveats
    report: Report = lambda _line: None,
    spread: Spread = HERE,
) -> dict[str, Any]:
    """Fits, cross-fits and judges all rules; writes ensemble.json and confusions.safetensors into `out_dir`.

    No label of the hold-out is read before the rule that would ship is decided. Raises ValueError where stores do
    not belong together, lack an image or hold logits that are not finite.
    """
    val, holdout = _paired(stores_val, stores_holdout, split, options)
    records = index.by_id()
    group_of = {image_id: records[image_id].group for image_id in (*split.val_ids, *split.holdout_ids)}
    folds = make_folds(split.val_ids, group_of, index.grouped, options.folds, options.seed)

    names = tuple(_allowed(store, options) for store in val)
    order, val_miou = _best_first(val, [plain_view(views) for views in names], split.val_ids, labels, report, spread)
    val, holdout, names = [val[m] for m in order], [holdout[m] for m in order], tuple(names[m] for m in order)
    sample = draw_sample(val, names, split.val_ids, labels, options.sample_bytes, options.seed, report, spread=spread)
    costs = costs_of(val, names, options.latency_budget_ms)
    images = Images([group_of[i] for i in split.val_ids], index.grouped, options.seed)
    sighted = choose_sights(sample, folds, images, costs.in_order(names), options.latency_budget_ms)
    calibrate = options.temperature == "auto"
    outcome = fit_val(
        val, split.val_ids, labels, sample, sighted, folds, images, options.max_sweeps, calibrate, report, spread
    )
    del sample
    choices = outcome.choices

    draws = draw([group_of[i] for i in split.val_ids], index.grouped, options.resamples, options.seed, "val")
    val_scores = {name: resample(counts, draws) for name, counts in outcome.crossfitted.items()}
    taken = climb(val_scores)
    report(f"taken on val: {taken}; opening the hold-out ({len(split.holdout_ids)} images)")

    ledger = open_holdout(out_dir, opened_at, opened_by)
    opened = draw([group_of[i] for i in split.holdout_ids], index.grouped, options.resamples, options.seed, "hold-out")
    ballots = [Ballot(choice.look, (choice.vote,)) for choice in choices.values()]
    counted = score_images(holdout, split.holdout_ids, labels, [ballots], report, "hold-out", spread=spread)
    unseen = {name: one[:, 0].astype(np.int64) for name, one in zip(choices, counted, strict=True)}
    holdout_scores = {name: resample(counts, opened) for name, counts in unseen.items()}
    step = gain(holdout_scores[taken], holdout_scores["best_single"])
    verdict = judge(taken, len(choices[taken].vote.used), step, len(split.holdout_ids))
    report(verdict["sentence"])

    scored = {"val_fitted": {name: resample(counts, draws) for name, counts in outcome.fitted.items()}}
    scored |= {"val_crossfit": val_scores, "holdout": holdout_scores}
    said = [*notes, costs.caveat, device_caveat(spread), folds.caveat, draws.caveat, opened.caveat]
    result = {
        "format": FORMAT,
        "classes": list(index.classes),
        "background": background,
        "num_val": len(split.val_ids),
        "num_holdout": len(split.holdout_ids),
        "unit": opened.unit,
        "caveats": caveats(said, ledger, verdict, holdout_scores),
        "members": members_part(val, sighted.whole.own_views, val_miou, costs),
        "rules": rules_part(choices, scored, costs),
        "cost_unit": costs.unit,
        "latency_budget_ms": options.latency_budget_ms,
        "pareto": pareto_part(sighted.visited, val),
        "verdict": verdict,
        "holdout_opened": ledger,
        **holdout_part(split.holdout_ids, unseen, verdict["rule"]),
    }
    counts = {"val_fitted": outcome.fitted, "val_crossfit": outcome.crossfitted, "holdout": unseen}
    write(out_dir, result, counts, split, folds)
    return result


def _paired(
    val: Sequence[LogitStore], holdout: Sequence[LogitStore], split: Split, options: EnsembleOptions
) -> tuple[list[LogitStore], list[LogitStore]]:
    """Both lists of stores, checked: same trials, same data, every image in every view that may be chosen."""
    if not val or not split.holdout_ids:
        raise ValueError(
            f"a verdict needs candidates and hold-out images, got {len(val)} and {len(split.holdout_ids)}; "
            "run the logits stage, and give the data card a hold-out (or let one be carved)"
        )
    for split_name, stores in (("val", val), ("holdout", holdout)):
        for store in stores:
            if store.header.split != split_name:
                raise ValueError(f"{store.folder} must hold logits of {split_name}, got {store.header.split}")
    check_together([*val, *holdout], one_split=False)
    others = {store.header.trial: store for store in holdout}
    for store in val:
        other = others.get(store.header.trial)
        if other is None or other.header.checkpoint_fingerprint != store.header.checkpoint_fingerprint:
            raise ValueError(
                f"trial {store.header.trial} must have logits of val and hold-out from one checkpoint, but the "
                f"hold-out's are {'missing' if other is None else 'from another'}; run the logits stage again"
            )
        for view in _allowed(store, options):
            for where, ids in ((store, split.val_ids), (other, split.holdout_ids)):
                missing = where.missing(view, ids)
                if missing:
                    raise ValueError(
                        f"{where.folder} lacks {len(missing)} images in view {view} ({', '.join(missing[:3])}, ...); "
                        "run the logits stage again"
                    )
    return list(val), [others[store.header.trial] for store in val]


def _allowed(store: LogitStore, options: EnsembleOptions) -> tuple[str, ...]:
    wanted = store.views if options.views is None else tuple(v for v in options.views if v in store.views)
    if not wanted:
        raise ValueError(
            f"{store.folder} has views {', '.join(store.views)}, none of {options.views}; name one of them"
        )
    return wanted


def _best_first(
    val: Sequence[LogitStore],
    plain: Sequence[str],
    ids: Sequence[str],
    labels: LabelSource,
    report: Report,
    spread: Spread,
) -> tuple[list[int], list[float]]:
    """Members by the mIoU of their plain view on all pixels of val, the best first, and those mIoU in that order."""
    num_members, num_classes = len(val), len(val[0].header.classes)
    votes = tuple(Vote("soft", single(num_members, num_classes, m)) for m in range(num_members))
    ballot = Ballot(Look.plain(tuple((view,) for view in plain)), votes)
    [counts] = score_images(val, ids, labels, [[ballot]], report, "candidates on val", spread=spread)
    scores = np.nan_to_num(miou(counts.sum(0, dtype=np.int64)), nan=-1.0)  # (M,)
    order = [int(m) for m in np.argsort(-scores, kind="stable")]
    return order, [float(scores[m]) for m in order]


if __name__ == "__main__":
    from analysis.ensemble_command import app

    app()
