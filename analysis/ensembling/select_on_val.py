"""Everything that is decided on val: views, weights, post-processing, and which rule would ship.

The hold-out has no part in it. Counts are (N,K,K) per rule, fitted and cross-fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.ensembling.bootstrap import Draws, Resampled, bootstrap_draws, resample
from analysis.ensembling.costs import InferenceCosts, costs_of
from analysis.ensembling.crossfit import Folds, Images, make_folds
from analysis.ensembling.crossfit_rules import Choice, RuleResults, fit_folds, score_val
from analysis.ensembling.fit_postprocess import POSTPROCESSED, PostprocessFit, count, fit_postprocess
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.pixel_sampling import draw_sample
from analysis.ensembling.verdict import select_rule
from analysis.ensembling.view_selection import SelectedViews, choose_sights
from analysis.voting.executor import Executor
from analysis.voting.score_images import LabelSource, Report, score_images
from analysis.voting.view_config import ViewConfig, VoteBatch, plain_view
from analysis.voting.votes import Vote, single
from trainables.data.index import Split
from trainables.logits.store import LogitStore
from trainables.metrics import miou


@dataclass(frozen=True)
class ValSelection:
    """`order[i]` is the candidate that is member i. Where post-processing was kept, it is the last of the rules."""

    order: list[int]
    val_miou: list[float]  # of each member's plain view
    costs: InferenceCosts
    sighted: SelectedViews
    folds: Folds
    draws: Draws
    outcome: RuleResults
    scores: Mapping[str, Resampled]  # cross-fitted
    taken: str
    post: PostprocessFit

    @property
    def shipped(self) -> str:
        """The rule that ships where the hold-out bears it out."""
        return self.taken if self.post.steps is None else POSTPROCESSED

    @property
    def choice(self) -> Choice:
        return self.outcome.choices[self.taken]


def decide_on_val(
    candidates: Sequence[LogitStore],
    views: Sequence[tuple[str, ...]],  # that each may use
    labels: LabelSource,
    split: Split,
    group_of: Mapping[str, str],
    grouped: bool,
    options: EnsembleOptions,
    report: Report,
    executor: Executor,
) -> ValSelection:
    """Fits and cross-fits all rules, and climbs their ladder. Raises ValueError where logits are not finite, or the
    latency budget allows no candidate."""
    ids, classes = split.val_ids, candidates[0].header.classes
    folds = make_folds(ids, group_of, grouped, options.folds, options.seed)
    order, val_miou = _best_first(candidates, [plain_view(names) for names in views], ids, labels, report, executor)
    val, names = [candidates[m] for m in order], tuple(views[m] for m in order)
    costs = costs_of(val, names, options.latency_budget_ms)
    images = Images([group_of[i] for i in ids], grouped, options.seed)
    sample = draw_sample(val, names, ids, labels, options.sample_bytes, options.seed, report, executor)
    deciding = costs.deciding(options.latency_budget_ms).in_order(names)
    sighted = choose_sights(sample, folds, images, deciding, options.latency_budget_ms)
    sighted = replace(sighted, visited=tuple(replace(v, cost=costs.total(v.views)) for v in sighted.visited))
    fits = fit_folds(sample, sighted, folds, options.max_sweeps, options.temperature == "auto", report)
    del sample
    outcome = score_val(val, ids, labels, fits, folds, images, report, executor)
    draws = bootstrap_draws([group_of[i] for i in ids], grouped, options.resamples, options.seed, "val")
    scores = {name: resample(counts, draws) for name, counts in outcome.crossfitted.items()}
    taken = select_rule(scores)
    without = [VoteBatch(choice.view_config, (choice.vote,)) for choice in outcome.without[taken]]
    post = fit_postprocess(
        options.postprocess,
        val,
        ids,
        labels,
        without,
        folds,
        outcome.crossfitted[taken],
        draws,
        classes,
        report,
        executor,
    )
    if post.steps is not None and post.crossfitted is not None:
        choice = outcome.choices[POSTPROCESSED] = outcome.choices[taken]
        outcome.crossfitted[POSTPROCESSED] = post.crossfitted
        whole = VoteBatch(choice.view_config, (choice.vote,)), post.steps
        outcome.fitted[POSTPROCESSED] = count(val, ids, labels, [whole], executor=executor)
        scores[POSTPROCESSED] = resample(post.crossfitted, draws)
    return ValSelection(order, val_miou, costs, sighted, folds, draws, outcome, scores, taken, post)


def _best_first(
    val: Sequence[LogitStore],
    plain: Sequence[str],
    ids: Sequence[str],
    labels: LabelSource,
    report: Report,
    executor: Executor,
) -> tuple[list[int], list[float]]:
    """Members by the mIoU of their plain view on all pixels of val, the best first, and those mIoU in that order."""
    num_members, num_classes = len(val), len(val[0].header.classes)
    votes = tuple(Vote("soft", single(num_members, num_classes, m)) for m in range(num_members))
    batch = VoteBatch(ViewConfig.plain(tuple((view,) for view in plain)), votes)
    [counts] = score_images(val, ids, labels, [[batch]], report, "candidates on val", executor=executor)
    scores = np.nan_to_num(miou(counts.sum(0, dtype=np.int64)), nan=-1.0)  # (M,)
    order = [int(m) for m in np.argsort(-scores, kind="stable")]
    return order, [float(scores[m]) for m in order]
