"""Opens the hold-out, once, and has it judge the rules that were fitted on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from analysis.ensembling.bootstrap import Draws, Resampled, bootstrap_draws, gain, resample, summary
from analysis.ensembling.costs import costs_of
from analysis.ensembling.crossfit_rules import Counts
from analysis.ensembling.fit_postprocess import POSTPROCESSED, count
from analysis.ensembling.result import FormResult, HoldoutOpening, MemberForm, Verdict
from analysis.ensembling.select_on_val import ValSelection
from analysis.ensembling.verdict import describe_form, make_verdict
from analysis.voting.executor import Executor
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import score_images


@dataclass(frozen=True)
class Provenance:
    """Where the members come from, what else of them may ship, and who opened the hold-out when."""

    opening: HoldoutOpening
    notes: Sequence[str] = ()  # caveats of the split and the logits
    ingredients: Mapping[str, Sequence[str]] = field(default_factory=dict)  # member -> the models it is the mean of
    folds: int = 0  # of the models whose out-of-fold logits rules are fitted on
    form: MemberForm = "trial"  # in which members predicted the hold-out
    other_forms: Mapping[MemberForm, LabelledLogits] = field(default_factory=dict)  # the hold-out by the same members


@dataclass(frozen=True)
class Judged:
    """What the hold-out says of every rule, and of the verdict's rule where its members come in another form."""

    holdout: LabelledLogits
    ledger: tuple[HoldoutOpening, ...]  # all openings, this one last
    draws: Draws
    counts: Mapping[str, Counts]  # (N,K,K) by rule
    scores: Mapping[str, Resampled]  # by rule
    verdict: Verdict
    other_forms: tuple[FormResult, ...]


def judge_on_holdout(
    decided: ValSelection,
    holdout: LabelledLogits,
    provenance: Provenance,
    out_dir: Path,
    resamples: int,
    seed: int,
    executor: Executor,
) -> Judged:
    """Writes down that the hold-out is opened, then scores all rules on it. `holdout` has the candidates in val's
    order."""
    opened = holdout.of_members(decided.order)
    executor.say(f"taken on val: {decided.taken}; opening the hold-out ({len(opened.ids)} images)")
    ledger = open_holdout(out_dir, provenance.opening)
    draws = bootstrap_draws(opened.groups, opened.grouped, resamples, seed)
    counts = _count(decided, opened, executor)
    scores = {name: resample(of_rule, draws) for name, of_rule in counts.items()}
    step = gain(scores[decided.shipped], scores["best_single"])
    members, postprocessed = len(decided.choice.vote.used), decided.shipped == POSTPROCESSED
    verdict = make_verdict(decided.taken, members, step, len(opened.ids), postprocessed=postprocessed)
    for name, of_rule in scores.items():
        shown = f"cross-fitted {decided.scores[name].miou:.4f}, hold-out {of_rule.miou:.4f}"
        executor.say(f"{name}: {shown}; {decided.reasons[name]}")
    executor.say(verdict.sentence)
    judged = Judged(opened, ledger, draws, counts, scores, verdict, ())
    forms = tuple(
        _form_result(form, other.of_members(decided.order), decided, judged, executor)
        for form, other in provenance.other_forms.items()
    )
    cost = decided.costs.total(decided.rules.choices[verdict.rule].used_views)
    for one in forms:
        executor.say(describe_form(one, cost))
    return replace(judged, other_forms=forms)


def open_holdout(out_dir: Path, opening: HoldoutOpening) -> tuple[HoldoutOpening, ...]:
    """Writes this opening down before any label of the hold-out is read; returns all openings, oldest first."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "holdout_opened.jsonl"
    with path.open("a") as file:
        file.write(opening.model_dump_json() + "\n")
    return tuple(HoldoutOpening.model_validate_json(line) for line in path.read_text().splitlines())


def _form_result(
    form: MemberForm, holdout: LabelledLogits, decided: ValSelection, judged: Judged, executor: Executor
) -> FormResult:
    """The verdict's rule with its members in another form, on the hold-out's logits of that form."""
    rule = judged.verdict.rule
    choice = decided.rules.choices[rule]
    if rule == POSTPROCESSED and decided.post.steps is not None:
        counts = count(holdout, choice.batch, decided.post.steps, executor)
    else:
        [counted] = score_images(holdout, [[choice.batch]], f"hold-out by {form}", executor=executor)
        counts = counted[:, 0].astype(np.int64)
    found = resample(counts, judged.draws)
    return FormResult(
        form=form,
        cost=costs_of(holdout.stores, holdout.views, None).total(choice.used_views),
        holdout=summary(found),
        gain=gain(found, judged.scores["best_single"]),
        gain_over_shipped=gain(found, judged.scores[rule]),
    )


def _count(decided: ValSelection, holdout: LabelledLogits, executor: Executor) -> dict[str, Counts]:
    """Counts (N,K,K) of every rule."""
    plain = {name: choice.batch for name, choice in decided.rules.choices.items() if name != POSTPROCESSED}
    counted = score_images(holdout, [list(plain.values())], "hold-out", executor=executor)
    unseen = {name: one[:, 0].astype(np.int64) for name, one in zip(plain, counted, strict=True)}
    if decided.post.steps is not None:
        unseen[POSTPROCESSED] = count(holdout, decided.choice.batch, decided.post.steps, executor)
    return unseen
