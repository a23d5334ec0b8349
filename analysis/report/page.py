"""One HTML file a run, the verdict first. It opens offline and asks nothing of any network.

Enters: `ReportFacts`, plain values (the ensemble.json dict among them) and a few hold-out images. Leaves: report.html
with plotly.js, style, script and pictures inside. Class, file and trial names are data: all are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.ensembling.result import FAIR_RIVAL
from analysis.report import charts, gallery, tables
from analysis.report.gallery import GalleryItem
from analysis.report.html import TEMPLATES, template_environment
from analysis.report.palette import palette
from analysis.report.pareto_chart import UNITS, describe, pareto_figure
from trainables.files import write_text

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
    "member": "A weight a member",
    "member_class": "A weight a member and class",
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
    ensemble: Mapping[str, Any]  # ensemble.json
    trials: Sequence[Mapping[str, Any]]  # rows of trials.csv, best first
    curves: Mapping[str, Sequence[Mapping[str, Any]]]  # trial -> a row an epoch with EpochReport's metric keys
    rungs: Sequence[int] = ()  # epochs at which ASHA stops trials
    importances: Mapping[str, float] = field(default_factory=dict)  # parameter -> share of what it explains
    gallery: Sequence[GalleryItem] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)  # rule of the data's check -> how often
    notes: Sequence[str] = ()  # of the split
    paths: Mapping[str, str] = field(default_factory=dict)  # what -> where


def write_report(out: Path, facts: ReportFacts) -> None:
    """Write the report to `out`, whole or not at all."""
    filters: dict[str, Callable[..., Any]] = {
        "score": tables.write_score,
        "gain": tables.write_gain,
        "interval": tables.write_interval,
        "moment": tables.write_moment,
        "share": tables.write_share,
    }
    environment = template_environment(filters)
    text = environment.get_template("report.html.j2").render(_context(facts))
    write_text(out, text)


def worst_images(ensemble: Mapping[str, Any], limit: int = MAX_PICTURES) -> list[str]:
    """The hold-out images with the lowest mIoU under the shipped rule, worst first: the gallery's ids."""
    scored = [row for row in ensemble["images"] if row["miou_shipped"] is not None]
    return [row["image_id"] for row in sorted(scored, key=lambda row: row["miou_shipped"])[:limit]]


def rule_label(name: str, ensemble: Mapping[str, Any]) -> str:
    """A rule's name for readers; that of the post-processed row says which rule it is of."""
    if name == "postprocessed":
        return f"{RULE_LABELS[ensemble['postprocess']['rule']]}, post-processed"
    return RULE_LABELS.get(name, name)


def _context(facts: ReportFacts) -> dict[str, Any]:
    ensemble = facts.ensemble
    classes: list[str] = list(ensemble["classes"])
    rules = [
        {**rule, "label": rule_label(rule["name"], ensemble), "uses": tables.uses(rule)} for rule in ensemble["rules"]
    ]
    by_name = {rule["name"]: rule for rule in rules}
    shipped = by_name[ensemble["verdict"]["rule"]]
    single = by_name.get("best_single", shipped)
    members = tables.member_rows(ensemble, shipped)
    # a soup has no curve: that of its best ingredient stands for it ("00003 epoch 8")
    highlight = [
        member.get("ingredients", [member["trial"]])[0].split()[0] for member in members if member["share"] > 0
    ]
    for rank, member in enumerate(members):
        member["colour"] = charts.hue(rank)
    counts = np.asarray(ensemble["confusion"]["counts"], dtype=np.int64)  # (K,K)
    colours = palette(len(classes), background=bool(ensemble["background"]))
    items = sorted(facts.gallery, key=lambda item: item.miou)[:MAX_PICTURES]
    context: dict[str, Any] = {
        "facts": facts,
        "ensemble": ensemble,
        "verdict": ensemble["verdict"],
        "rules": rules,
        "shipped": shipped,
        "single": single,
        "rival": by_name.get(FAIR_RIVAL, single),
        "forest": tables.forest(rules, "gain_holdout"),
        "members": members,
        "class_rows": tables.class_rows(classes, counts, single, shipped),
        "absent": [name for name, iou in zip(classes, shipped["holdout"]["iou"], strict=True) if iou is None],
        "front": [{**row, "what": describe(row)} for row in ensemble["pareto"] if row["front"]],
        "cost_unit": UNITS[ensemble["cost_unit"]],
        "columns": tables.trial_columns(facts.trials),
        "importances": sorted(facts.importances.items(), key=lambda item: item[1], reverse=True),
        "pictures": [gallery.picture(item, colours) for item in items],
        "legend": gallery.legend(classes, colours, items),
        "num_curves": len(charts.drawn_trials(facts.curves, highlight)),
        "figures": {
            **_curve_figures(facts, highlight),
            "pareto": Markup(pareto_figure(ensemble, rules, shipped["name"])),  # noqa: S704
            "classes": Markup(charts.class_iou_figure(classes, rules, _shown(rules, single, shipped))),  # noqa: S704
            "confusion": Markup(charts.confusion_figure(classes, counts)),  # noqa: S704
        },
        "duration": tables.write_duration(facts.started, facts.ended),
        "confusion_label": rule_label(ensemble["confusion"]["rule"], ensemble),
        **_own_files(),
    }
    parts = [context["plotly"], *context["figures"].values()]
    uris = [uri for p in context["pictures"] for uri in (p.image_uri, p.truth_uri, p.prediction_uri)]
    context["embedded_mb"] = sum(len(part) for part in (*parts, *uris)) / 1e6
    return context


def _own_files() -> dict[str, Markup]:
    """Style, script and plotly.js: trusted text, placed as it is."""
    return {
        "style": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704
        "script": Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),  # noqa: S704
        "plotly": Markup(get_plotlyjs()),  # noqa: S704
    }


def _curve_figures(facts: ReportFacts, highlight: list[str]) -> dict[str, Markup]:
    """Figures by name; charts.safe_json has escaped what could begin markup."""
    if not facts.curves:
        return {}
    losses = {"val/loss": "solid", "train/loss": "dot"}
    return {
        "miou": Markup(charts.curves_figure(facts.curves, "mIoU", {"val/miou": "solid"}, facts.rungs, highlight)),  # noqa: S704
        "loss": Markup(charts.curves_figure(facts.curves, "loss", losses, facts.rungs, highlight)),  # noqa: S704
    }


def _shown(rules: Sequence[Mapping[str, Any]], single: Mapping[str, Any], shipped: Mapping[str, Any]) -> list[str]:
    """The rules whose marks are drawn at first: what ships, the single model, and the best rival of the two."""
    rivals = sorted((r for r in rules if r not in (single, shipped)), key=lambda r: r["val_crossfit"]["miou"] or 0.0)
    return list(dict.fromkeys([shipped["name"], single["name"], *(rule["name"] for rule in rivals[-1:])]))
