"""report.html: one file per run, the verdict first. plotly.js, style, script and pictures are inside, so that it opens
offline and needs no network; only the pages per class lie beside it. Class, file and trial names are data: all are
escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.distilled_result import DistilledResult
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.ensembling.result import FAIR_RIVAL, EnsembleResult, RuleResult
from analysis.ensembling.verdict import describe_form
from analysis.report import charts, gallery, html, tables
from analysis.report.class_pages import page_name
from analysis.report.data_checks import SplitChecks, SuspectsSummary
from analysis.report.exports import exports_markup
from analysis.report.gallery import GalleryItem
from analysis.report.leaderboard import FamilyRow
from analysis.report.origin import Origin
from analysis.report.palette import palette
from analysis.report.pareto_chart import UNITS, describe, pareto_figure
from analysis.report.pseudo import pseudo_markup
from analysis.report.student import student_markup
from analysis.report.trial_table import trial_table
from analysis.report.work_chart import Span, work_figure, work_rows
from analysis.search_quality import Audit, Overtuning

MAX_PICTURES = 12
RULE_LABELS = {
    "best_single": "Best single model",
    "best_single_class": "Best single, class weights",
    "best_single_views": "Best single, best views",
    "hard_vote": "Hard vote",
    "soft_vote": "Soft vote",
    "geometric_mean": "Geometric mean",
    "greedy": "Greedy selection",
    "soft_class": "Soft vote, class weights",
    "member": "A weight per member",
    "member_class": "A weight per member and class",
    "stacked": "Stacking, class weights",
}


@dataclass(frozen=True)
class ReportFacts:
    """Everything that the report says, as plain values."""

    title: str
    started: str  # ISO 8601
    ended: str
    space: str
    data: str
    counts: Mapping[str, int]  # in the reader's words: {"train images": 367, ...}
    ensemble: EnsembleResult
    trials: Sequence[Mapping[str, Any]]  # rows of trials.csv, best first
    curves: Mapping[str, Sequence[Mapping[str, Any]]]  # trial -> a row per epoch with EpochReport's metric keys
    rungs: Sequence[int] = ()  # epochs at which ASHA stops trials
    importances: Mapping[str, float] = field(default_factory=dict)  # parameter -> share of what it explains
    top_importances: Mapping[str, float] = field(default_factory=dict)  # the like of the best tenth of the trials
    gallery: Sequence[GalleryItem] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)  # rule of the data's check -> how often
    notes: Sequence[str] = ()  # of the split
    paths: Mapping[str, str] = field(default_factory=dict)  # what -> where
    exports: Sequence[Mapping[str, str]] = ()  # bundles that users chose: said, out, at
    licences: Sequence[str] = ()  # of the images and of the pretrained weights of what ships, and what they allow
    distilled: DistilledResult | None = None  # the one model that learnt from the ensemble
    pseudo: PseudoResult | None = None  # whether pseudo labels helped
    origin: Origin = field(default_factory=Origin)
    families: Sequence[FamilyRow] = ()  # best first
    submissions: Sequence[Mapping[str, Any]] = ()  # the run's lines of the ledger
    audit: Audit | None = None  # of early stopping
    overtuning: Overtuning | None = None  # what the best candidate owes to chance; None where it cannot be told
    noise: str = ""  # which differences are ties; "" where it was not measured
    search_figures: Mapping[str, str] = field(default_factory=dict)  # "parallel", "slice-<n>"
    work: Sequence[Span] = ()  # when what ran
    checks: SplitChecks | None = None
    suspects: SuspectsSummary | None = None
    class_pages: str = ""  # their folder, relative to the report; "" where there are none


def write_report(out: Path, facts: ReportFacts) -> None:
    """Write the report to `out`, whole or not at all."""
    filters: dict[str, Callable[..., Any]] = {
        "score": tables.write_score,
        "gain": tables.write_gain,
        "interval": tables.write_interval,
        "moment": tables.write_moment,
        "share": tables.write_share,
        "seconds": tables.write_seconds,
    }
    values, figures = _context(facts)
    html.write_page(out, "report.html.j2", values, figures, filters)


def worst_images(ensemble: EnsembleResult, limit: int = MAX_PICTURES) -> dict[str, float]:
    """The hold-out images with the lowest mIoU under the shipped rule, worst first: image id -> mIoU."""
    scored = [(image.miou_shipped, image.image_id) for image in ensemble.images if image.miou_shipped is not None]
    return {image_id: miou for miou, image_id in sorted(scored, key=lambda pair: pair[0])[:limit]}


def rule_label(name: str, ensemble: EnsembleResult) -> str:
    """A rule's name for readers; that of the post-processed rule says which rule it is of."""
    if name == "postprocessed":
        return f"{RULE_LABELS[ensemble.postprocess.rule]}, post-processed"
    return RULE_LABELS.get(name, name)


def _context(facts: ReportFacts) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that the template places, and the figures by name."""
    ensemble = facts.ensemble
    single = _rule_or("best_single", ensemble, ensemble.shipped)
    counts = np.asarray(ensemble.confusion.counts, dtype=np.int64)  # (K,K)
    colours = palette(len(ensemble.classes), background=ensemble.background)
    items = sorted(facts.gallery, key=lambda item: item.miou)[:MAX_PICTURES]
    members = tables.member_rows(ensemble)
    highlight = [row.curve for row in members if row.share > 0]
    figures = {
        **_curve_figures(facts, highlight),
        **_ensemble_figures(ensemble, single, counts),
        **facts.search_figures,
        **({"work": work_figure(facts.work)} if facts.work else {}),
    }
    pictures = [gallery.picture(item, colours) for item in items]  # worst first
    uris = [uri for p in pictures for uri in (p.image_uri, p.truth_uri, p.prediction_uri)]
    values = {
        "title": facts.title,
        "facts": facts,
        "exports": exports_markup(facts.exports),
        "student": student_markup(facts.distilled),
        "pseudo": pseudo_markup(facts.pseudo),
        "importances": tables.importance_rows(facts.importances, facts.top_importances),
        "table": trial_table(facts.trials, facts.importances),
        "duration": tables.write_duration(facts.started, facts.ended),
        "members": members,
        "hues": [charts.hue(rank) for rank in range(len(members))],
        "class_rows": tables.class_rows(ensemble.classes, counts, single, ensemble.shipped),
        "pictures": pictures,
        "page_of": [f"{facts.class_pages}/{page_name(k)}" if facts.class_pages else "" for k in range(len(counts))],
        "work": work_rows(facts.work),
        "slices": [name for name in facts.search_figures if name.startswith("slice-")],
        "legend": gallery.legend(ensemble.classes, colours, items),
        "num_curves": len(charts.drawn_trials(facts.curves, highlight)),
        "embedded_bytes": sum(map(len, (*figures.values(), *uris))),
        **_ensemble_context(ensemble, single),
    }
    return values, figures


def _ensemble_context(ensemble: EnsembleResult, single: RuleResult) -> dict[str, Any]:
    shipped = ensemble.shipped
    return {
        "ensemble": ensemble,
        "verdict": ensemble.verdict,
        "shipped": shipped,
        "single": single,
        "rival": _rule_or(FAIR_RIVAL, ensemble, single),
        "labels": _labels(ensemble),
        "uses": {rule.name: tables.uses(rule) for rule in ensemble.rules},
        "forest": tables.forest(ensemble.rules),
        "absent": [name for name, iou in zip(ensemble.classes, shipped.holdout.iou, strict=True) if iou is None],
        "front": [(point, describe(point)) for point in ensemble.pareto if point.front],
        "fitted_on": tables.write_fitted_on(ensemble.fitted_on),
        "other_forms": [describe_form(form, shipped.cost) for form in ensemble.other_forms],
        "cost_unit": UNITS[ensemble.cost_unit],
    }


def _rule_or(name: str, ensemble: EnsembleResult, otherwise: RuleResult) -> RuleResult:
    return next((rule for rule in ensemble.rules if rule.name == name), otherwise)


def _labels(ensemble: EnsembleResult) -> dict[str, str]:
    return {rule.name: rule_label(rule.name, ensemble) for rule in ensemble.rules}


def _curve_figures(facts: ReportFacts, highlight: list[str]) -> dict[str, str]:
    if not facts.curves:
        return {}
    losses = {"val/loss": "solid", "train/loss": "dot"}
    return {
        "miou": charts.curves_figure(facts.curves, "mIoU", {"val/miou": "solid"}, facts.rungs, highlight),
        "loss": charts.curves_figure(facts.curves, "loss", losses, facts.rungs, highlight),
    }


def _ensemble_figures(ensemble: EnsembleResult, single: RuleResult, counts: NDArray[np.int64]) -> dict[str, str]:
    classes, labels, shown = ensemble.classes, _labels(ensemble), _shown(ensemble, single)
    return {
        "pareto": pareto_figure(ensemble, labels),
        "classes": charts.class_iou_figure(classes, ensemble.rules, labels, shown),
        "confusion": charts.confusion_figure(classes, counts),
    }


def _shown(ensemble: EnsembleResult, single: RuleResult) -> list[str]:
    """The rules whose marks are drawn at first: what ships, the single model, and the best rival of the two."""
    shipped = ensemble.shipped
    others = [rule for rule in ensemble.rules if rule.name not in (single.name, shipped.name)]
    rivals = sorted(others, key=lambda rule: rule.val_crossfit.miou or 0.0)
    return list(dict.fromkeys([shipped.name, single.name, *(rule.name for rule in rivals[-1:])]))
