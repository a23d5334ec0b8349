"""From the candidates' logits to the verdict: fits every rule on val, cross-fits it, opens the hold-out once.

Writes `ensemble.json` (see `result`), `confusions.safetensors` (counts (N,K,K) int64 per rule and scoring, and per
member) and the stacker of a stacked rule. This process never holds more than the fitting sample (`sample_mb`), the
counts of its V votes (4 N V K K bytes, and about as much for those of rules and members), the resamples (2 bytes per
resample and image), and the probabilities of one image. `executor` says where images are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from analysis.ensembling.bootstrap import gain, resample
from analysis.ensembling.build_result import (
    caveats,
    confusion_of,
    image_scores,
    member_results,
    pareto_points,
    rule_results,
    write_confusions,
)
from analysis.ensembling.judge_on_holdout import Judged, Provenance, judge_on_holdout
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import FORMAT, EnsembleResult, FittedOn
from analysis.ensembling.select_on_val import ValSelection, decide_on_val
from analysis.ensembling.stacker_file import write_stackers
from analysis.ensembling.verdict import absent_classes, never_predicted, not_converged, too_few_groups
from analysis.voting.executor import LOCAL, Executor, device_caveat
from analysis.voting.labelled_logits import LabelledLogits
from trainables.logits.store import check_together


def fit_ensemble(
    val: LabelledLogits,
    holdout: LabelledLogits,
    options: EnsembleOptions,
    provenance: Provenance,
    out_dir: Path,
    *,
    seed: int = 0,
    executor: Executor = LOCAL,
) -> EnsembleResult:
    """Fits, cross-fits and judges all rules; writes ensemble.json and the files it goes with into `out_dir`.

    No label of the hold-out is read before the rule that would ship is decided. Raises ValueError where stores do
    not belong together, lack an image or hold logits that are not finite.
    """
    holdout = _paired(val, holdout)
    others = {form: _paired(val, other) for form, other in provenance.other_forms.items()}
    provenance = replace(provenance, other_forms=others)
    decided = decide_on_val(val, options, seed, executor)
    val = val.of_members(decided.order)
    judged = judge_on_holdout(decided, holdout, provenance, out_dir, options.resamples, seed, executor)
    said = [*provenance.notes, decided.costs.caveat, device_caveat(executor)]
    said += _caveats(val, decided, judged, options.max_sweeps)
    result = _build(val, decided, judged, provenance, said, options.latency_budget_ms, out_dir)
    counts = {"val_fitted": decided.fitted, "val_crossfit": decided.rules.crossfitted, "holdout": judged.counts}
    counts["members"] = {store.header.trial: decided.plain[m] for m, store in enumerate(val.stores)}
    # last, so that where it is the counts and the stacker are too
    write_confusions(out_dir / "confusions.safetensors", counts, val, judged.holdout, decided.folds)
    result.write(out_dir / "ensemble.json")
    return result


def _caveats(val: LabelledLogits, decided: ValSelection, judged: Judged, max_sweeps: int) -> Iterator[str | None]:
    """What limits the verdict, in words."""
    holdout, rules, single = judged.holdout, decided.rules, judged.scores["best_single"]
    yield decided.folds.caveat
    if holdout.grouped:
        of_val, of_holdout = len(set(val.groups)), len(set(holdout.groups))
        yield too_few_groups(of_val, "val") if of_val > 1 else None  # of one group, the folds' caveat says it
        yield too_few_groups(of_holdout, "the hold-out", gain(judged.scores[decided.shipped], single))
    yield from absent_classes(val.classes, rules.crossfitted["best_single"], judged.counts["best_single"])
    yield not_converged(decided.taken, rules.unconverged, max_sweeps)
    yield never_predicted(rules.choices[judged.verdict.rule].vote.weights, val.classes)


def _build(
    val: LabelledLogits,
    decided: ValSelection,
    judged: Judged,
    provenance: Provenance,
    said: list[str | None],
    latency_budget_ms: float | None,
    out_dir: Path,
) -> EnsembleResult:
    """Writes the stackers as well, which the result names."""
    choices, costs, verdict, counts = decided.rules.choices, decided.costs, judged.verdict, judged.counts
    fitted = {name: resample(of_rule, decided.draws) for name, of_rule in decided.fitted.items()}
    scored = {"val_fitted": fitted, "val_crossfit": decided.scores, "holdout": judged.scores}
    post = decided.post.result(decided.taken)
    stackers = write_stackers(out_dir, {name: choice.vote for name, choice in choices.items()})
    own_views = decided.views.whole.own_views
    return EnsembleResult(
        format=FORMAT,
        classes=val.classes,
        background=val.background,
        num_val=len(val.ids),
        num_holdout=len(judged.holdout.ids),
        fitted_on=FittedOn(
            kind="out_of_fold" if provenance.folds else "val", images=len(val.ids), folds=provenance.folds
        ),
        unit=judged.draws.unit,
        caveats=caveats(said, judged.ledger, verdict, judged.scores, decided.taken),
        members=member_results(val.stores, own_views, decided.val_miou, costs, provenance.ingredients),
        rules=rule_results(choices, scored, decided.reasons, costs, post, stackers),
        postprocess=post,
        cost_unit=costs.unit,
        latency_budget_ms=latency_budget_ms,
        pareto=pareto_points(decided.views.visited, val.stores),
        verdict=verdict,
        holdout_opened=judged.ledger,
        confusion=confusion_of(counts[verdict.rule], verdict.rule),
        images=image_scores(judged.holdout.ids, counts["best_single"], counts[verdict.rule]),
        form=provenance.form,
        other_forms=judged.other_forms,
    )


def _paired(val: LabelledLogits, holdout: LabelledLogits) -> LabelledLogits:
    """The hold-out with its members in val's order, checked: same trials, same data, every image in every view."""
    if not val.stores or not holdout.ids:
        raise ValueError(
            f"a verdict needs candidates and hold-out images, got {len(val.stores)} and {len(holdout.ids)}; "
            "run the logits stage, and give the data card a hold-out (or let one be carved)"
        )
    for split_name, stores in (("val", val.stores), ("holdout", holdout.stores)):
        for store in stores:
            if store.header.split != split_name:
                raise ValueError(f"{store.folder} must hold logits of {split_name}, got {store.header.split}")
    check_together([*val.stores, *holdout.stores], one_split=False)
    place = {store.header.trial: m for m, store in enumerate(holdout.stores)}
    for store in val.stores:
        trial = store.header.trial
        other = holdout.stores[place[trial]] if trial in place else None
        if other is None or other.header.checkpoint_fingerprint != store.header.checkpoint_fingerprint:
            raise ValueError(
                f"trial {trial} must have logits of val and hold-out from one checkpoint, but the "
                f"hold-out's are {'missing' if other is None else 'from another'}; run the logits stage again"
            )
        for view in store.views:
            for where, ids in ((store, val.ids), (other, holdout.ids)):
                missing = where.missing(view, ids)
                if missing:
                    raise ValueError(
                        f"{where.folder} lacks {len(missing)} images in view {view} ({', '.join(missing[:3])}, ...); "
                        "run the logits stage again"
                    )
    return holdout.of_members([place[store.header.trial] for store in val.stores])
