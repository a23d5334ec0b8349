"""From the candidates' logits to the verdict: fits every rule on val, cross-fits it, opens the hold-out once.

Writes `ensemble.json` (see `result`) and `confusions.safetensors` (counts (N,K,K) int64 per rule and scoring). This
process never holds more than the fitting sample (`sample_bytes`), the counts of its V votes (4 N V K K bytes, and about
as much for the rules' own), the resamples (2 bytes per resample and image), and the probabilities of one image.
`executor` says where images are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from analysis.ensembling.bootstrap import bootstrap_draws, gain, resample
from analysis.ensembling.build_result import (
    caveats,
    confusion_of,
    image_scores,
    member_results,
    open_holdout,
    pareto_points,
    rule_results,
    write_confusions,
)
from analysis.ensembling.crossfit_rules import Counts
from analysis.ensembling.fit_postprocess import POSTPROCESSED, count
from analysis.ensembling.options import EnsembleOptions as EnsembleOptions
from analysis.ensembling.result import FORMAT, EnsembleResult
from analysis.ensembling.select_on_val import ValSelection, decide_on_val
from analysis.ensembling.verdict import make_verdict, never_predicted
from analysis.voting.executor import LOCAL, Executor, device_caveat
from analysis.voting.score_images import LabelSource, Report, score_images
from analysis.voting.view_config import VoteBatch
from trainables.data.index import SegIndex, Split
from trainables.logits.store import LogitStore, check_together


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
    executor: Executor = LOCAL,
) -> EnsembleResult:
    """Fits, cross-fits and judges all rules; writes ensemble.json and confusions.safetensors into `out_dir`.

    No label of the hold-out is read before the rule that would ship is decided. Raises ValueError where stores do
    not belong together, lack an image or hold logits that are not finite.
    """
    val, holdout = _paired(stores_val, stores_holdout, split, options)
    records = index.by_id()
    group_of = {image_id: records[image_id].group for image_id in (*split.val_ids, *split.holdout_ids)}
    views = [_allowed(store, options) for store in val]
    decided = decide_on_val(val, views, labels, split, group_of, index.grouped, options, report, executor)
    val, holdout = [val[m] for m in decided.order], [holdout[m] for m in decided.order]
    taken, shipped = decided.taken, decided.shipped
    report(f"taken on val: {taken}; opening the hold-out ({len(split.holdout_ids)} images)")

    ledger = open_holdout(out_dir, opened_at, opened_by)
    opened = bootstrap_draws(
        [group_of[i] for i in split.holdout_ids], index.grouped, options.resamples, options.seed, "hold-out"
    )
    unseen = _count_holdout(decided, holdout, split.holdout_ids, labels, report, executor)
    scores = {name: resample(counts, opened) for name, counts in unseen.items()}
    step = gain(scores[shipped], scores["best_single"])
    members = len(decided.choice.vote.used)
    verdict = make_verdict(taken, members, step, len(split.holdout_ids), postprocessed=shipped == POSTPROCESSED)
    report(verdict.sentence)

    outcome, choices, costs = decided.outcome, decided.outcome.choices, decided.costs
    said = [*notes, costs.caveat, device_caveat(executor), decided.folds.caveat, decided.draws.caveat, opened.caveat]
    said.append(never_predicted(choices[verdict.rule].vote.weights, index.classes))
    fitted = {name: resample(counts, decided.draws) for name, counts in outcome.fitted.items()}
    scored = {"val_fitted": fitted, "val_crossfit": decided.scores, "holdout": scores}
    post = decided.post.result(taken)
    result = EnsembleResult(
        format=FORMAT,
        classes=index.classes,
        background=background,
        num_val=len(split.val_ids),
        num_holdout=len(split.holdout_ids),
        unit=opened.unit,
        caveats=caveats(said, ledger, verdict, scores, taken),
        members=member_results(val, decided.sighted.whole.own_views, decided.val_miou, costs, ingredients),
        rules=rule_results(choices, scored, costs, post),
        postprocess=post,
        cost_unit=costs.unit,
        latency_budget_ms=options.latency_budget_ms,
        pareto=pareto_points(decided.sighted.visited, val),
        verdict=verdict,
        holdout_opened=ledger,
        confusion=confusion_of(unseen[verdict.rule], verdict.rule),
        images=image_scores(split.holdout_ids, unseen["best_single"], unseen[verdict.rule]),
    )
    counts = {"val_fitted": outcome.fitted, "val_crossfit": outcome.crossfitted, "holdout": unseen}
    # first, so that where ensemble.json is the counts are too
    write_confusions(out_dir / "confusions.safetensors", index.classes, counts, split, decided.folds)
    result.write(out_dir / "ensemble.json")
    return result


def _count_holdout(
    decided: ValSelection,
    holdout: Sequence[LogitStore],
    ids: Sequence[str],
    labels: LabelSource,
    report: Report,
    executor: Executor,
) -> dict[str, Counts]:
    """Counts (N,K,K) of every rule."""
    batches = {name: VoteBatch(choice.view_config, (choice.vote,)) for name, choice in decided.outcome.choices.items()}
    plain = {name: batch for name, batch in batches.items() if name != POSTPROCESSED}
    counted = score_images(holdout, ids, labels, [list(plain.values())], report, "hold-out", executor=executor)
    unseen = {name: one[:, 0].astype(np.int64) for name, one in zip(plain, counted, strict=True)}
    if decided.post.steps is not None:
        whole = batches[POSTPROCESSED], decided.post.steps
        unseen[POSTPROCESSED] = count(holdout, ids, labels, [whole], executor=executor)
    return unseen


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
