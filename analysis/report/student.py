"""The one model that learnt from the ensemble, in a report that may be written already: its place lies between two
comments, as that of `exports` does."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from analysis.ensembling.distilled_result import DistilledResult
from analysis.report.exports import fill
from analysis.report.tables import write_interval, write_score

BEGIN, END = Markup("<!-- distilled -->"), Markup("<!-- /distilled -->")
_NOTE = Markup(
    '<div class="note"><h2>One model in place of the ensemble</h2><p>{sentence}.</p>'
    "<table><thead><tr><th>model</th><th>hold-out mIoU</th><th>95% interval</th><th>ms per image ({device})</th></tr>"
    "</thead><tbody>{rows}</tbody></table>{caveats}</div>"
)
_ROW = Markup("<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td></tr>")
_CAVEAT = Markup("<p>{}</p>")


def student_markup(result: DistilledResult | None) -> Markup:
    """The place in the report, filled where there is a student."""
    if result is None:
        return BEGIN + END
    found, latency = result.comparison, result.latency
    models = (
        ("best single model", found.single, latency.single_ms),
        (f"ensemble ({result.teacher.rule})", found.ensemble, latency.ensemble_ms),
        ("distilled", found.distilled, latency.distilled_ms),
    )
    rows = Markup().join(_ROW.format(name, write_score(s.miou), write_interval(s), ms) for name, s, ms in models)
    caveats = Markup().join(_CAVEAT.format(caveat) for caveat in result.caveats)
    sentence = result.sentence[:1].upper() + result.sentence[1:]
    return BEGIN + _NOTE.format(sentence=sentence, device=latency.device, rows=rows, caveats=caveats) + END


def mark_student(report: Path, result: DistilledResult) -> bool:
    """Fill the place in the report that is there; False where it has none."""
    return fill(report, BEGIN, student_markup(result), END)
