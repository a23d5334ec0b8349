"""Whether pseudo labels helped, in a report that may be written already: its place lies between two comments, as that
of `exports` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from analysis.ensembling.pseudo_result import PseudoResult, PseudoRound
from analysis.report.exports import fill
from analysis.report.tables import write_gain, write_interval, write_score, write_share

BEGIN, END = Markup("<!-- pseudo -->"), Markup("<!-- /pseudo -->")
_SECTION = Markup(
    '<section id="pseudo" aria-labelledby="pseudo-heading"><h2 id="pseudo-heading">Pseudo labels</h2>'
    "<p>{sentence}.</p>{rounds}{scores}{caveats}</section>"
)
_TABLE = Markup("<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
_HEAD, _ROW, _CELL = Markup('<th scope="col">{}</th>'), Markup("<tr>{}</tr>"), Markup("<td>{}</td>")
_CAVEAT = Markup("<p>{}</p>")
_ROUND_HEADS = ("round", "teacher", "images", "dropped", "certain", "share of a batch", "gain, cross-fitted", "")


def pseudo_markup(result: PseudoResult | None) -> Markup:
    """The place in the report, filled where pseudo labels were tried."""
    if result is None:
        return BEGIN + END
    rounds = _table(_ROUND_HEADS, [_round_row(number, one) for number, one in enumerate(result.rounds, 1)])
    found, scores = result.comparison, Markup()
    if found is not None:
        models = (
            (f"the recipe of trial {result.trial}", found.single),
            ("with pseudo labels", found.distilled),
            ("ensemble", found.ensemble),
        )
        rows = [(name, write_score(score.miou), write_interval(score)) for name, score in models]
        scores = _table(("model", "hold-out mIoU", "95% interval"), rows)
    caveats = Markup().join(_CAVEAT.format(caveat) for caveat in result.caveats)
    sentence = result.sentence[:1].upper() + result.sentence[1:]
    return BEGIN + _SECTION.format(sentence=sentence, rounds=rounds, scores=scores, caveats=caveats) + END


def mark_pseudo(report: Path, result: PseudoResult) -> bool:
    """Fill the place in the report that is there; False where it has none."""
    return fill(report, BEGIN, pseudo_markup(result), END)


def _round_row(number: int, one: PseudoRound) -> tuple[str, ...]:
    tried = ", ".join(f"{share.share:g} ({write_score(share.miou)})" for share in one.tried)
    share = "–" if one.share is None else f"{one.share:g}" + (f" of {tried}" if len(one.tried) > 1 else "")
    return (
        str(number),
        one.teacher,
        str(one.images),
        str(one.dropped),
        "–" if one.certain is None else write_share(one.certain),
        share,
        "–" if one.gain is None else write_gain(one.gain.gain),
        one.reason,
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    cells = [_ROW.format(Markup().join(_CELL.format(cell) for cell in row)) for row in rows]
    return _TABLE.format(heads=Markup().join(_HEAD.format(head) for head in heads), rows=Markup().join(cells))
