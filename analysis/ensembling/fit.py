"""From the candidates' logits to the verdict: fits every rule on val, cross-fits it, opens the hold-out once.

Writes `ensemble.json` (see `result`), `confusions.safetensors` (counts (N,K,K) int64 per rule and scoring, and per
member) and the stacker of a stacked rule. This process never holds more than the fitting sample (`sample_mb`), the
counts of its V votes (4 N V K K bytes, and about as much for those of rules and members), the resamples (2 bytes per
resample and image), and the probabilities of one image. `executor` says where images are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis.ensembling.bootstrap import Draws, Resampled, bootstrap_draws, gain, resample, summary
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
from analysis.ensembling.costs import costs_of
from analysis.ensembling.crossfit_rules import Counts
from analysis.ensembling.fit_postprocess import POSTPROCESSED, count
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import FORMAT, EnsembleResult, FittedOn, FormResult, HoldoutOpening, MemberForm
from analysis.ensembling.select_on_val import ValSelection, decide_on_val
from analysis.ensembling.stacker_file import write_stackers
from analysis.ensembling.verdict import (
    absent_classes,
    describe_form,
    make_verdict,
    never_predicted,
    not_converged,
    too_few_groups,
)
from analysis.voting.executor import LOCAL, Executor, device_caveat
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import score_images
from trainables.logits.store import check_together


@dataclass(frozen=True)
class Provenance:
    """Where the members come from, what else of them may ship, and who opened the hold-out when."""

    opening: HoldoutOpening
    notes: Sequence[str] = ()  # caveats of the split and the logits
    ingredients: Mapping[str, Sequence[str]] = field(default_factory=dict)  # member -> the models it is the mean of
    folds: int = 0  # of the models whose out-of-fold logits rules are fitted on
    form: MemberForm = "trial"  # in which members predicted the hold-out
    other_forms: Mapping[MemberForm, LabelledLogits] = field(default_factory=dict)  # the hold-out by the same members


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
    decided = decide_on_val(val, options, seed, executor)
    val, holdout = val.of_members(decided.order), holdout.of_members(decided.order)
    taken, shipped, rules, costs = decided.taken, decided.shipped, decided.rules, decided.costs
    executor.say(f"taken on val: {taken}; opening the hold-out ({len(holdout.ids)} images)")

    ledger = open_holdout(out_dir, provenance.opening)
    opened = bootstrap_draws(holdout.groups, holdout.grouped, options.resamples, seed)
    unseen = _count_holdout(decided, holdout, executor)
    scores = {name: resample(counts, opened) for name, counts in unseen.items()}
    step = gain(scores[shipped], scores["best_single"])
    members = len(decided.choice.vote.used)
    verdict = make_verdict(taken, members, step, len(holdout.ids), postprocessed=shipped == POSTPROCESSED)
    for name, holding in scores.items():
        shown = f"cross-fitted {decided.scores[name].miou:.4f}, hold-out {holding.miou:.4f}"
        executor.say(f"{name}: {shown}; {decided.reasons[name]}")
    executor.say(verdict.sentence)
    forms = tuple(
        _form_result(form, other.of_members(decided.order), verdict.rule, decided, scores, opened, executor)
        for form, other in others.items()
    )
    cost = costs.total(rules.choices[verdict.rule].used_views)
    for one in forms:
        executor.say(describe_form(one, cost))

    said = [*provenance.notes, costs.caveat, device_caveat(executor)]
    said.append(decided.folds.caveat)
    if holdout.grouped:
        of_val, of_holdout = len(set(val.groups)), len(set(holdout.groups))
        said.append(too_few_groups(of_val, "val") if of_val > 1 else None)  # of one group, the folds' caveat says it
        said.append(too_few_groups(of_holdout, "the hold-out", step))
    said += absent_classes(val.classes, rules.crossfitted["best_single"], unseen["best_single"])
    said.append(not_converged(taken, rules.unconverged, options.max_sweeps))
    said.append(never_predicted(rules.choices[verdict.rule].vote.weights, val.classes))
    fitted = {name: resample(counts, decided.draws) for name, counts in decided.fitted.items()}
    scored = {"val_fitted": fitted, "val_crossfit": decided.scores, "holdout": scores}
    post = decided.post.result(taken)
    stackers = write_stackers(out_dir, {name: choice.vote for name, choice in rules.choices.items()})
    result = EnsembleResult(
        format=FORMAT,
        classes=val.classes,
        background=val.background,
        num_val=len(val.ids),
        num_holdout=len(holdout.ids),
        fitted_on=FittedOn(
            kind="out_of_fold" if provenance.folds else "val", images=len(val.ids), folds=provenance.folds
        ),
        unit=opened.unit,
        caveats=caveats(said, ledger, verdict, scores, taken),
        members=member_results(
            val.stores, decided.views.whole.own_views, decided.val_miou, costs, provenance.ingredients
        ),
        rules=rule_results(rules.choices, scored, decided.reasons, costs, post, stackers),
        postprocess=post,
        cost_unit=costs.unit,
        latency_budget_ms=options.latency_budget_ms,
        pareto=pareto_points(decided.views.visited, val.stores),
        verdict=verdict,
        holdout_opened=ledger,
        confusion=confusion_of(unseen[verdict.rule], verdict.rule),
        images=image_scores(holdout.ids, unseen["best_single"], unseen[verdict.rule]),
        form=provenance.form,
        other_forms=forms,
    )
    counts = {"val_fitted": decided.fitted, "val_crossfit": rules.crossfitted, "holdout": unseen}
    counts["members"] = {store.header.trial: decided.plain[m] for m, store in enumerate(val.stores)}
    # last, so that where it is the counts and the stacker are too
    write_confusions(out_dir / "confusions.safetensors", counts, val, holdout, decided.folds)
    result.write(out_dir / "ensemble.json")
    return result


def _form_result(
    form: MemberForm,
    holdout: LabelledLogits,
    rule: str,
    decided: ValSelection,
    scores: Mapping[str, Resampled],
    draws: Draws,
    executor: Executor,
) -> FormResult:
    """The rule with its members in another form, on the hold-out's logits of that form."""
    choice = decided.rules.choices[rule]
    if rule == POSTPROCESSED and decided.post.steps is not None:
        counts = count(holdout, choice.batch, decided.post.steps, executor)
    else:
        [counted] = score_images(holdout, [[choice.batch]], f"hold-out by {form}", executor=executor)
        counts = counted[:, 0].astype(np.int64)
    found = resample(counts, draws)
    return FormResult(
        form=form,
        cost=costs_of(holdout.stores, holdout.views, None).total(choice.used_views),
        holdout=summary(found),
        gain=gain(found, scores["best_single"]),
        gain_over_shipped=gain(found, scores[rule]),
    )


def _count_holdout(decided: ValSelection, holdout: LabelledLogits, executor: Executor) -> dict[str, Counts]:
    """Counts (N,K,K) of every rule."""
    plain = {name: choice.batch for name, choice in decided.rules.choices.items() if name != POSTPROCESSED}
    counted = score_images(holdout, [list(plain.values())], "hold-out", executor=executor)
    unseen = {name: one[:, 0].astype(np.int64) for name, one in zip(plain, counted, strict=True)}
    if decided.post.steps is not None:
        unseen[POSTPROCESSED] = count(holdout, decided.choice.batch, decided.post.steps, executor)
    return unseen


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
