"""From members, votes, resampled scores and counts (N,K,K) int64 to the parts of an `EnsembleResult`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from analysis.ensembling.bootstrap import Resampled, gain, summary
from analysis.ensembling.costs import InferenceCosts
from analysis.ensembling.crossfit import CrossfitFolds
from analysis.ensembling.crossfit_rules import Choice
from analysis.ensembling.fitted_rule import StackerFile
from analysis.ensembling.result import (
    FAIR_RIVAL,
    Confusion,
    HoldoutOpening,
    ImageScore,
    MemberResult,
    ParetoPoint,
    PostprocessResult,
    RuleResult,
    Verdict,
)
from analysis.ensembling.verdict import signed
from analysis.ensembling.view_selection import ScoredEnsemble
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.view_config import Views
from trainables.files import write_atomically
from trainables.logits.store import LogitStore
from trainables.metrics import miou

Counts = NDArray[np.int64]
Scored = Mapping[str, Mapping[str, Resampled]]  # scoring ("val_fitted", "val_crossfit", "holdout") -> rule -> scores


def member_results(
    val: Sequence[LogitStore],
    views: Views,
    val_miou: Sequence[float],
    costs: InferenceCosts,
    ingredients: Mapping[str, Sequence[str]],
) -> tuple[MemberResult, ...]:
    """The candidates, best first: `views` are its own best ones, `val_miou` that of its plain view."""
    headers = [store.header for store in val]
    return tuple(
        MemberResult(
            trial=header.trial,
            recipe_hash=header.recipe_hash,
            family=header.family,
            views=names,
            val_miou=score,
            costs=dict(of_views),
            ingredients=tuple(ingredients[header.trial]) if header.trial in ingredients else None,
        )
        for header, names, score, of_views in zip(headers, views, val_miou, costs.of, strict=True)
    )


def rule_results(
    choices: Mapping[str, Choice],
    scored: Scored,
    reasons: Mapping[str, str],
    costs: InferenceCosts,
    post: PostprocessResult,
    stackers: Mapping[str, StackerFile],
) -> tuple[RuleResult, ...]:
    """The rules from plain to rich, those that are stacked with their files. Where post-processing was kept, the last
    one is the taken rule with it."""
    rules = [
        _rule_result(name, choice, scored, reasons[name], costs, stackers.get(name)) for name, choice in choices.items()
    ]
    if post.kept:
        rules[-1] = rules[-1].model_copy(update={"of": post.rule, "postprocess": post.steps})
    return tuple(rules)


def _rule_result(
    name: str, choice: Choice, scored: Scored, reason: str, costs: InferenceCosts, stacker: StackerFile | None
) -> RuleResult:
    crossfit, holdout = scored["val_crossfit"], scored["holdout"]
    return RuleResult(
        name=name,
        reason=reason,
        vote=choice.vote.kind,
        weights=tuple(map(tuple, choice.vote.weights.astype(float).tolist())),  # float32 values, exactly
        stacker=stacker,
        views=choice.view_config.views,
        cost=costs.total(choice.used_views),
        temperatures=choice.view_config.temperatures,
        val_fitted=summary(scored["val_fitted"][name]),
        val_crossfit=summary(crossfit[name]),
        holdout=summary(holdout[name]),
        gain_crossfit=gain(crossfit[name], crossfit["best_single"]),
        gain_over_rival_crossfit=gain(crossfit[name], crossfit[FAIR_RIVAL]),
        gain_holdout=gain(holdout[name], holdout["best_single"]),
        gain_over_rival_holdout=gain(holdout[name], holdout[FAIR_RIVAL]),
    )


def pareto_points(visited: Sequence[ScoredEnsemble], val: Sequence[LogitStore]) -> tuple[ParetoPoint, ...]:
    """The plain views of single members, and every ensemble of the search that none beats in both cost and
    cross-fitted mIoU, from cheap to expensive."""
    trials = [store.header.trial for store in val]
    points: list[ParetoPoint] = []
    best = -1.0
    for one in sorted(visited, key=lambda v: (v.cost, -v.miou_crossfit)):
        alone = sum(len(views) for views in one.views) == 1
        front = one.miou_crossfit > best
        best = max(best, one.miou_crossfit)
        used = [m for m, views in enumerate(one.views) if views]
        point = ParetoPoint(
            ms=one.cost,
            miou_fitted=one.miou_fitted,
            miou_crossfit=one.miou_crossfit,
            members=tuple(trials[m] for m in used),
            views=tuple(tuple(one.views[m]) for m in used),
            front=front,
        )
        known = {(other.members, other.views) for other in points}
        if (alone or front) and (point.members, point.views) not in known:
            points.append(point)
    return tuple(points)


def confusion_of(counts: Counts, rule: str) -> Confusion:
    """The hold-out's counts (N,K,K) of the shipped rule, summed."""
    return Confusion(split="holdout", rule=rule, counts=tuple(map(tuple, counts.sum(0).tolist())))


def image_scores(ids: Sequence[str], single: Counts, shipped: Counts) -> tuple[ImageScore, ...]:
    """Each image's mIoU under the best single model and under the shipped rule, by their counts (N,K,K)."""
    rows = zip(ids, miou(single), miou(shipped), strict=True)
    return tuple(
        ImageScore(image_id=image_id, miou_single=_known(alone), miou_shipped=_known(ships))
        for image_id, alone, ships in rows
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def caveats(
    found: Sequence[str | None],
    ledger: Sequence[HoldoutOpening],
    verdict: Verdict,
    holdout: Mapping[str, Resampled],
    taken: str,
) -> tuple[str, ...]:
    """What a reader of the verdict has to know, in words; `found` has those of the folds and the intervals, `taken` is
    the rule that was selected on val."""
    words = [caveat for caveat in found if caveat]
    if len(ledger) > 1:
        words.append(
            f"the hold-out was opened before ({len(ledger) - 1} times, first at {ledger[0].at}): what was learnt "
            "from it then may have gone into this run"
        )
    if verdict.ship == "ensemble":  # one that only repairs a class prior is not a gain
        step = gain(holdout[verdict.rule], holdout[FAIR_RIVAL])
        doubt = "" if step.is_above_zero else ", an interval that does not lie above 0"
        words.append(
            f"over the best single model with class weights, the fair rival, the ensemble gains {signed(step)}{doubt}"
        )
    if verdict.rule not in ("best_single", taken):
        part = signed(gain(holdout[verdict.rule], holdout[taken]))
        words.append(
            f"of the gain, post-processing makes {part} over {taken} without it; the best single model that both are "
            "compared with was not post-processed"
        )
    return tuple(words)


def write_confusions(
    path: Path,
    counts: Mapping[str, Mapping[str, Counts]],
    val: LabelledLogits,
    holdout: LabelledLogits,
    folds: CrossfitFolds,
) -> None:
    """confusions.safetensors: a tensor (N,K,K) named "<rule>/<scoring>" each; `counts` is scoring -> rule ->
    (N,K,K)."""
    meta = {
        "classes": json.dumps(val.classes),
        "val_ids": json.dumps(val.ids),
        "val_folds": json.dumps(folds.of_image.tolist()),
        "holdout_ids": json.dumps(holdout.ids),
    }
    tensors = {
        f"{rule}/{scoring}": np.ascontiguousarray(array)
        for scoring, by_rule in counts.items()
        for rule, array in by_rule.items()
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, meta))
