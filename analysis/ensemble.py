"""From the candidates' logits to a verdict that holds: fits every rule on val, cross-fits it, opens the hold-out
once.

Enters: one `LogitStore` a candidate for val and for the hold-out, a source of labels, the index and the split.
Leaves: `ensemble.json` (format segsearch-ensemble/1: every rule's weights, scores with intervals and gains, and the
verdict) and `confusions.safetensors` (counts (N,K,K) int64 a rule and scoring). At no time is more in memory than
the fitting sample (`sample_bytes`), the counts, and the probabilities of one image.

    ensemble = fit_ensemble(val_stores, holdout_stores, cache, index, split, EnsembleOptions(), background=True,
                            out_dir=run_dir, opened_at="2025-01-31T12:00:00+00:00")

As a command it judges predictions that any tool saved (`alone`, `foreign`):

    python analysis/ensemble.py --logits A B C --labels data.yaml --out OUT
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from analysis.crossfit import Folds, choose_candidate, make_folds, nested
from analysis.ensemble_file import FORMAT, caveats, holdout_part, members_part, open_holdout, rules_part, write
from analysis.passes import Ballot, LabelSource, Report, Views, score_images
from analysis.postprocess_fit import POSTPROCESSED, Mode, count, fit_postprocess
from analysis.rules import RULES, Sample, best_member, fit_rules
from analysis.sampling import FittingSample, draw_sample
from analysis.tta import MIN_GAIN, choose_views
from analysis.verdict import climb, draw, gain, judge, never_predicted, resample
from analysis.voting import Vote, single
from trainables.data.index import SegIndex, Split
from trainables.logits import LogitStore, check_together
from trainables.metrics import miou
from trainables.recipe import Part

Counts = NDArray[np.int64]


class EnsembleOptions(Part):
    """How the ensemble is fitted and judged. Equal options and logits give equal results."""

    seed: int = 0
    folds: Annotated[int, Field(ge=2)] = 5
    resamples: Annotated[int, Field(ge=100)] = 2000
    sample_bytes: Annotated[int, Field(ge=2**20)] = 2**30
    views: tuple[str, ...] | None = None  # names to choose from; every view that was predicted where None
    min_view_gain: Annotated[float, Field(ge=0.0)] = MIN_GAIN  # mIoU that a further view must add
    max_sweeps: Annotated[int, Field(ge=1)] = 20
    postprocess: Mode = "auto"  # specks and holes out of the label maps, where that pays


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
    ingredients: Mapping[str, Sequence[str]] = MappingProxyType({}),  # of the members that are soups
    report: Report = lambda _line: None,
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
    sample = draw_sample(val, names, split.val_ids, labels, options.sample_bytes, options.seed, report)
    views = _views(sample, sample.truth, options)
    order, val_miou = _best_first(val, views, split.val_ids, labels, report)
    val, holdout = [val[m] for m in order], [holdout[m] for m in order]
    views, sample = tuple(views[m] for m in order), sample.reordered(order)

    fitted, crossfitted, votes, held_out = _fit_val(val, views, sample, folds, split, labels, options, report)
    draws = draw([group_of[i] for i in split.val_ids], index.grouped, options.resamples, options.seed, "val")
    val_scores = {name: resample(counts, draws) for name, counts in crossfitted.items()}
    taken = climb(val_scores)
    whole, without_fold = Ballot(views, (votes[taken],)), held_out[taken]
    post = fit_postprocess(options.postprocess, val, split.val_ids, labels, without_fold, folds, crossfitted[taken],
                           draws, index.classes, report)  # fmt: skip
    shipped = taken
    if post.steps is not None and post.crossfitted is not None:
        shipped, votes[POSTPROCESSED], crossfitted[POSTPROCESSED] = POSTPROCESSED, votes[taken], post.crossfitted
        fitted[POSTPROCESSED] = count(val, split.val_ids, labels, [(whole, post.steps)] * len(split.val_ids))
        val_scores[POSTPROCESSED] = resample(post.crossfitted, draws)
    report(f"taken on val: {taken}; opening the hold-out ({len(split.holdout_ids)} images)")

    ledger = open_holdout(out_dir, opened_at, opened_by)
    opened = draw([group_of[i] for i in split.holdout_ids], index.grouped, options.resamples, options.seed, "hold-out")
    ballot = Ballot(views, tuple(votes[name] for name in RULES))
    [counted] = score_images(holdout, split.holdout_ids, labels, lambda _i: [ballot], report, "hold-out")
    unseen = {name: counted[:, v].astype(np.int64) for v, name in enumerate(RULES)}
    if post.steps is not None:
        unseen[POSTPROCESSED] = count(
            holdout, split.holdout_ids, labels, [(whole, post.steps)] * len(split.holdout_ids)
        )
    holdout_scores = {name: resample(counts, opened) for name, counts in unseen.items()}
    step = gain(holdout_scores[shipped], holdout_scores["best_single"])
    verdict = judge(taken, len(votes[taken].used), step, len(split.holdout_ids), postprocessed=shipped == POSTPROCESSED)
    report(verdict["sentence"])

    said = [
        never_predicted(votes.get(verdict["rule"], votes[taken]).weights, index.classes),
        folds.caveat,
        draws.caveat,
    ]
    scored = {"val_fitted": {name: resample(counts, draws) for name, counts in fitted.items()}}
    scored |= {"val_crossfit": val_scores, "holdout": holdout_scores}
    result = {
        "format": FORMAT,
        "classes": list(index.classes),
        "background": background,
        "num_val": len(split.val_ids),
        "num_holdout": len(split.holdout_ids),
        "unit": opened.unit,
        "caveats": caveats([*notes, *said, opened.caveat], ledger, verdict, holdout_scores, taken),
        "members": members_part(val, views, val_miou, ingredients),
        "rules": rules_part(votes, views, scored, post.part(taken)),
        "postprocess": post.part(taken),
        "verdict": verdict,
        "holdout_opened": ledger,
        **holdout_part(split.holdout_ids, unseen, verdict["rule"]),
    }
    counts = {"val_fitted": fitted, "val_crossfit": crossfitted, "holdout": unseen}
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


def _views(sample: FittingSample, truth: NDArray[np.uint8], options: EnsembleOptions) -> Views:
    return tuple(
        choose_views(q, truth, names, options.min_view_gain)
        for q, names in zip(sample.by_view, sample.names, strict=True)
    )


def _best_first(
    val: Sequence[LogitStore], views: Views, ids: Sequence[str], labels: LabelSource, report: Report
) -> tuple[list[int], list[float]]:
    """Members by their mIoU on all pixels of val, the best first, and those mIoU in that order."""
    num_members, num_classes = len(val), len(val[0].header.classes)
    ballot = Ballot(views, tuple(Vote("soft", single(num_members, num_classes, m)) for m in range(num_members)))
    [counts] = score_images(val, ids, labels, lambda _i: [ballot], report, "candidates on val")
    scores = np.nan_to_num(miou(counts.sum(0, dtype=np.int64)), nan=-1.0)  # (M,)
    order = [int(m) for m in np.argsort(-scores, kind="stable")]
    return order, [float(scores[m]) for m in order]


def _fit_val(
    val: Sequence[LogitStore],
    views: Views,
    sample: FittingSample,
    folds: Folds,
    split: Split,
    labels: LabelSource,
    options: EnsembleOptions,
    report: Report,
) -> tuple[dict[str, Counts], dict[str, Counts], dict[str, Vote], dict[str, list[Ballot]]]:
    """Counts (N,K,K) of val by the votes fitted on all of it, by those fitted without each image's fold, the votes,
    and the ones fitted without each fold."""
    q = sample.probabilities(views)
    whole = fit_rules(Sample(q, sample.truth, 0, options.max_sweeps))
    held_out = folds.of_image[sample.image]  # (P,)
    ballots = []
    q_views = views
    for fold in range(folds.num):
        report(f"fitting {len(RULES)} rules without fold {fold + 1} of {folds.num}")
        truth = np.where(held_out == fold, np.uint8(255), sample.truth)
        fold_views = _views(sample, truth, options)  # choosing views is part of the fit
        if fold_views != q_views:
            q, q_views = sample.probabilities(fold_views, q), fold_views
        fits = fit_rules(Sample(q, truth, best_member(q, truth), options.max_sweeps))
        ballots.append(Ballot(fold_views, tuple(vote for name in RULES for vote in fits[name])))
    del q
    everything = Ballot(views, tuple(vote for name in RULES for vote in whole[name]))
    crossed, fitted = score_images(
        val, split.val_ids, labels, lambda i: [ballots[folds.of_image[i]], everything], report, "rules on val"
    )
    chosen: dict[str, Vote] = {}
    by_fit: dict[str, Counts] = {}
    by_fold: dict[str, Counts] = {}
    held_out_votes: dict[str, list[Ballot]] = {}
    at = 0
    for name in RULES:
        columns = range(at, at + len(whole[name]))
        candidates = [crossed[:, c].astype(np.int64) for c in columns]
        by_fold[name], pick = nested(candidates, folds)
        picks = [at + choose_candidate(candidates, folds.of_image != fold) for fold in range(folds.num)]
        held_out_votes[name] = [Ballot(b.views, (b.votes[c],)) for b, c in zip(ballots, picks, strict=True)]
        by_fit[name] = fitted[:, at + pick].astype(np.int64)
        chosen[name] = whole[name][pick]
        at += len(whole[name])
    return by_fit, by_fold, chosen, held_out_votes


if __name__ == "__main__":
    from analysis.ensemble_command import app

    app()
