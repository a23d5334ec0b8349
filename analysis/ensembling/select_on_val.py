"""Everything that is decided on val: views, weights, post-processing, and which rule would ship.

The hold-out has no part in it. Val's logits are read in three passes: the fitting sample and each member's plain score;
every rule's candidates, cross-fitted; the chosen rules as fitted, with what post-processing could change. A fourth one
cross-fits post-processing where that found something to try.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.bootstrap import Draws, Resampled, bootstrap_draws, resample
from analysis.ensembling.costs import InferenceCosts, costs_of
from analysis.ensembling.crossfit import CrossfitFolds, Images, make_crossfit_folds
from analysis.ensembling.crossfit_rules import Choice, Counts, RuleResults, crossfit_rules, fit_folds
from analysis.ensembling.fit_postprocess import POSTPROCESSED, ChangeCounts, Changes, PostprocessFit, fit_postprocess
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.pixel_sampling import DrawnPixels, FittingSample, gather, plan_sample
from analysis.ensembling.verdict import select_rule
from analysis.ensembling.view_selection import SelectedViews, select_views
from analysis.voting.executor import Executor, JobGroup
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import Scoring
from analysis.voting.view_config import ViewConfig, VoteBatch, plain_view
from analysis.voting.votes import Vote, single
from trainables.metrics import miou


@dataclass(frozen=True)
class ValSelection:
    """`order[i]` is the candidate that is member i. Where post-processing was kept, it is the last of the rules."""

    order: list[int]
    plain: Counts  # (M,N,K,K), of each member's plain view
    val_miou: list[float]  # of the same
    costs: InferenceCosts
    views: SelectedViews
    folds: CrossfitFolds
    draws: Draws
    rules: RuleResults
    fitted: Mapping[str, Counts]  # (N,K,K) by rule, fitted on all of val
    scores: Mapping[str, Resampled]  # cross-fitted
    taken: str
    reasons: Mapping[str, str]  # by rule: why it was taken or not
    post: PostprocessFit

    @property
    def shipped(self) -> str:
        """The rule that ships where the hold-out bears it out."""
        return self.taken if self.post.steps is None else POSTPROCESSED

    @property
    def choice(self) -> Choice:
        return self.rules.choices[self.taken]


def decide_on_val(candidates: LabelledLogits, options: EnsembleOptions, seed: int, executor: Executor) -> ValSelection:
    """Fits and cross-fits all rules, and takes one. Raises ValueError where logits are not finite, or the
    latency budget allows no candidate."""
    group_of = dict(zip(candidates.ids, candidates.groups, strict=True))
    folds = make_crossfit_folds(candidates.ids, group_of, candidates.grouped, options.folds, seed)
    order, plain, sample = _read(candidates, options.sample_mb * 2**20, seed, executor)
    val = candidates.of_members(order)
    costs = costs_of(val.stores, val.views, options.latency_budget_ms)
    images = Images(val.groups, val.grouped, seed)
    deciding = costs.deciding(options.latency_budget_ms).in_order(val.views)
    views = select_views(sample, folds, images, deciding, options.latency_budget_ms)
    views = replace(views, visited=tuple(replace(v, cost=costs.total(v.views)) for v in views.visited))
    fits = fit_folds(sample, views, folds, images, options, executor.say)
    del sample
    rules = crossfit_rules(val, fits, folds, images, executor)
    draws = bootstrap_draws(val.groups, val.grouped, options.resamples, seed)
    scores = {name: resample(counts, draws) for name, counts in rules.crossfitted.items()}
    selection = select_rule(scores, options.confidence)
    taken, reasons = selection.taken, selection.reasons
    batches = [*(choice.batch for choice in rules.without[taken]), rules.choices[taken].batch]
    measuring = ChangeCounts.of(val, batches[:-1], folds.of_image) if options.postprocess == "auto" else None
    fitted, changes = _score_fitted(val, rules, measuring, executor)
    post = PostprocessFit(None, "ensemble.postprocess is off")
    if changes is not None:
        post = fit_postprocess(changes, val, batches, folds, rules.crossfitted[taken], draws, executor)
    if post.steps is not None and post.crossfitted is not None and post.fitted is not None:
        rules.choices[POSTPROCESSED] = rules.choices[taken]
        rules.crossfitted[POSTPROCESSED], fitted[POSTPROCESSED] = post.crossfitted, post.fitted
        scores[POSTPROCESSED] = resample(post.crossfitted, draws)
        reasons[POSTPROCESSED] = post.reason
    val_miou = [float(score) for score in _plain_miou(plain)]
    return ValSelection(order, plain, val_miou, costs, views, folds, draws, rules, fitted, scores, taken, reasons, post)


def _read(
    val: LabelledLogits, sample_bytes: int, seed: int, executor: Executor
) -> tuple[list[int], Counts, FittingSample]:
    """Members by the mIoU of their plain view on all pixels of val, the best first; the counts (M,N,K,K) of that, and
    the fitting sample, with the members in that order."""
    num_members = len(val.stores)
    votes = tuple(Vote("soft", single(num_members, val.num_classes, m)) for m in range(num_members))
    batch = VoteBatch(ViewConfig.plain(tuple((plain_view(views),) for views in val.views)), votes)
    scoring = Scoring.of(val, [[batch]], None, executor.device)
    plan, sizes = plan_sample(val, sample_bytes, seed, executor)
    counted: list[Counts] = []  # each (n,M,K,K)

    def drawn() -> Iterator[DrawnPixels]:
        for part, [counts] in executor(JobGroup((plan, scoring)), val.ids, "candidates on val"):
            counted.append(counts)
            yield part

    sample = gather(plan, sizes, drawn())
    plain = np.concatenate(counted).swapaxes(0, 1).astype(np.int64)  # (M,N,K,K)
    order = [int(m) for m in np.argsort(-_plain_miou(plain), kind="stable")]
    return order, plain[order], sample.of_members(order)


def _plain_miou(counts: Counts) -> NDArray[np.float64]:  # (M,N,K,K) -> (M,)
    """Of all images together; -1 where no class occurs."""
    return np.nan_to_num(miou(counts.sum(axis=1)), nan=-1.0)


def _score_fitted(
    val: LabelledLogits,
    rules: RuleResults,
    measuring: ChangeCounts | None,
    executor: Executor,
) -> tuple[dict[str, Counts], Changes | None]:
    """Counts (N,K,K) of every rule as it was fitted on all of val, and what each post-processing option alone
    changes."""
    scoring = Scoring.of(val, [[choice.batch for choice in rules.choices.values()]], None, executor.device)
    group = JobGroup((scoring, measuring) if measuring else (scoring,))
    scored, *changed = zip(*executor(group, val.ids, "rules on val, fitted"), strict=True)
    counts = (np.concatenate(few)[:, 0].astype(np.int64) for few in zip(*scored, strict=True))
    fitted = dict(zip(rules.choices, counts, strict=True))
    return fitted, Changes.of(changed[0], val.num_classes) if changed else None
