"""Bundles of rules that users chose in place of the verdict's, in a report that may be written already.

The report has a place for them between two comments, which no value can contain, as all are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from analysis.report import html

BEGIN, END = Markup("<!-- exported -->"), Markup("<!-- /exported -->")
_LIST = Markup('<div class="note"><h2>Shipped by choice</h2><ul>{}</ul></div>')
_ITEM = Markup("<li>{said} (<code>{out}</code>, {at})</li>")


def exports_markup(exports: Sequence[Mapping[str, str]]) -> Markup:
    """The place in the report, filled: what was `said` of each bundle, where it went (`out`) and when (`at`)."""
    items = Markup().join(_ITEM.format(**one) for one in exports)
    return BEGIN + (_LIST.format(items) if exports else "") + END


def mark_exports(report: Path, exports: Sequence[Mapping[str, str]]) -> bool:
    """Fill the place in the report that is there; False where it has none."""
    return fill(report, BEGIN, exports_markup(exports), END)


def fill(report: Path, begin: Markup, filled: Markup, end: Markup) -> bool:
    """Replace what lies between two comments of the report, these included; False where it lacks one of them."""
    before, found, rest = report.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        return False
    html.write_text(report, f"{before}{filled}{after}")
    return True
