"""The report's section on pseudo labels."""

from __future__ import annotations

from pathlib import Path

from factories import make_gain, make_score

from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.ensembling.pseudo_result import FORMAT, PseudoResult, PseudoRound, TriedShare
from analysis.report.pseudo import mark_pseudo, pseudo_markup


def result_of(comparison: Comparison | None = None) -> PseudoResult:
    tried = (TriedShare(share=0.25, miou=0.41), TriedShare(share=0.5, miou=0.42))
    first = PseudoRound(
        teacher="soft_vote",
        labels=("0123456789abcdef",),
        images=40,
        dropped=2,
        certain=0.6,
        tried=tried,
        share=0.5,
        gain=make_gain(0.02),
        helped=True,
        reason="above <0>",
    )
    return PseudoResult(
        format=FORMAT,
        options=PseudoOptions(share=(0.25, 0.5)),
        trial="00001",
        rounds=(first,),
        comparison=comparison,
        helped=False,
        sentence="pseudo labels did not help",
        caveats=("the hold-out was opened before",),
        holdout_opened=(),
    )


def test_sentence_rounds_and_caveats_are_shown_and_escaped() -> None:
    shown = pseudo_markup(result_of())
    assert "<p>Pseudo labels did not help.</p>" in shown
    assert "<td>0.5 of 0.25 (0.410), 0.5 (0.420)</td>" in shown
    assert "above &lt;0&gt;" in shown
    assert "the hold-out was opened before" in shown
    assert "hold-out mIoU" not in shown  # it was not opened


def test_scores_on_the_hold_out_stand_beside_the_recipes_own() -> None:
    scores = {name: make_score(miou, 2) for name, miou in (("single", 0.4), ("ensemble", 0.5), ("distilled", 0.45))}
    gains = dict.fromkeys(("ensemble_over_single", "over_single", "over_rival", "over_ensemble"), make_gain(0.05))
    shown = pseudo_markup(result_of(Comparison(unit="image", num_images=9, kept=None, **scores, **gains)))
    assert "<td>the recipe of trial 00001</td><td>0.400</td>" in shown
    assert "<td>with pseudo labels</td><td>0.450</td>" in shown


def test_a_report_is_filled_later_and_again(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(f"<main>{pseudo_markup(None)}</main>", encoding="utf-8")
    assert mark_pseudo(report, result_of())
    once = report.read_text(encoding="utf-8")
    assert mark_pseudo(report, result_of())
    assert report.read_text(encoding="utf-8") == once
    report.write_text("<main></main>", encoding="utf-8")
    assert not mark_pseudo(report, result_of())
