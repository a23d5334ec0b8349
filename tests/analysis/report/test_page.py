from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from factories import as_json, make_ensemble, make_member, with_shipped

from analysis.ensembling.result import EnsembleResult, FittedOn
from analysis.report import charts, tables
from analysis.report.exports import mark_exports
from analysis.report.gallery import MAX_SIDE_PX, GalleryItem, picture
from analysis.report.leaderboard import Entry, leaderboard
from analysis.report.page import ReportFacts, worst_images, write_report
from analysis.report.palette import palette
from analysis.report.pareto_chart import pareto_figure
from analysis.report.work_chart import Span
from analysis.search_quality.overtuning import Contender, Overtuning

CLASSES = ["Background", "<script>alert(1)</script>", "Glass & co"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def facts() -> ReportFacts:
    rng = np.random.default_rng(0)
    items = [
        GalleryItem(
            f"<b>{n}</b>.jpg",
            rng.integers(0, 256, (40, 60, 3), dtype=np.uint8),
            rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (40, 60)),
            rng.integers(0, 3, (40, 60), dtype=np.uint8),
            0.1 * n,
        )
        for n in (2, 0, 1)
    ]
    epochs = [{"epoch": e, "val/miou": 0.1 * e, "val/loss": 1 / e, "train/loss": 0.9 / e} for e in range(1, 5)]
    return ReportFacts(
        title="tiny-20260501",
        started="2026-05-01T10:03:12+00:00",
        ended="2026-05-01T12:09:01+00:00",
        space="convnext.yaml",
        data="tiny",
        counts={"train images": 1234},
        ensemble=make_ensemble(CLASSES, [make_member("0000"), make_member("0001")]),
        trials=[
            {"trial": "0000", "state": "COMPLETE", "recipe": "1e5555555555", "best mIoU": 0.5, "optimizer/lr": 1e-4},
            {"trial": "0001", "state": "ERROR", "recipe": "123456789012", "best mIoU": None, "error": "<i>no</i>"},
        ],
        curves={"0000": epochs, "0001": [{"epoch": 1, "val/miou": float("nan"), "val/loss": None}]},
        rungs=[2, 4, 60],
        importances={"optimizer/lr": 0.7, "model/backbone": 0.3},
        gallery=items,
        warnings={"images without annotation": 3},
        notes=["class Glass lies in one group only"],
        paths={"bundle": "/runs/tiny/bundle"},
        licences=["pretrained weights of x.<b>: mit"],
        work=[Span("trial to the end", "<b>0000</b>", 0.0, 60.0, 1.0), Span("stage", "ensemble", 70.0, 90.0)],
    )


@pytest.fixture
def page(facts: ReportFacts, tmp_path: Path) -> Path:
    write_report(tmp_path / "report.html", facts)
    return tmp_path / "report.html"


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_the_verdict_comes_first_and_nothing_is_asked_of_a_network(page: Path) -> None:
    elements = Elements(page.read_text(encoding="utf-8"))
    assert elements.text.index("Ship it.") < elements.text.index("The run") < elements.text.index("Click a heading")
    assert "The hold-out was opened once:" in elements.text
    for tag, attributes in elements.tags:
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or value == "", f"{tag} asks for {value}"
        assert not (tag == "img" and not attributes.get("alt"))
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_names_are_data_and_never_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "<b>0</b>" not in text
    assert "<i>no</i>" not in text
    assert "&lt;script&gt;alert(1)" in text
    figures = re.findall(r'<script type="application/json" id="figure-\w+">(.*?)</script>', text, re.DOTALL)
    assert len(figures) == 6
    for figure in figures:
        assert "<" not in figure
        assert json.loads(figure)["data"]


@pytest.mark.parametrize(("unit", "budget"), [("ms", 7.5), ("views", None)])
def test_the_cost_is_drawn_in_its_unit_with_the_budget(facts: ReportFacts, unit: str, budget: float | None) -> None:
    ensemble = facts.ensemble.model_copy(update={"cost_unit": unit, "latency_budget_ms": budget})
    labels = {rule.name: f"<{rule.name}>" for rule in ensemble.rules}
    figure = json.loads(pareto_figure(ensemble, labels))
    singles, front, others, ships = figure["data"]
    assert singles["x"] == [1.0]
    assert front["x"] == [1.0, 2.0]
    assert front["text"][1] == "0000 (s1.00-none)<br>0001 (s1.00-none)"
    assert ships["text"] == ["&lt;member_class&gt;"]
    assert len(others["x"]) == len(labels) - 1
    assert figure["layout"]["xaxis"]["title"]["text"].startswith({"ms": "milliseconds", "views": "views"}[unit])
    assert [shape["x0"] for shape in figure["layout"].get("shapes", [])] == ([] if budget is None else [budget])


def test_a_soup_names_its_ingredients_and_shows_its_best_trials_curve(facts: ReportFacts, tmp_path: Path) -> None:
    soup = make_member("soup-0000", ingredients=("0000 epoch 4", "0000 epoch 3"))
    ensemble = make_ensemble(CLASSES, [soup, make_member("0001")])
    write_report(tmp_path / "report.html", replace(facts, ensemble=ensemble))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "soup-0000" in Elements(text).text
    assert "mean of 0000 epoch 4, 0000 epoch 3" in Elements(text).text
    [curves] = re.findall(r'id="figure-miou">(.*?)</script>', text, re.DOTALL)
    assert [trace["name"] for trace in json.loads(curves)["data"] if trace["showlegend"]] == ["0000"]


def test_the_gallery_is_worst_first_and_says_how_many(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r'<span class="name">&lt;b&gt;(\d)', text)
    assert shown == ["0", "1", "2"]
    assert "3 of 3 hold-out images" in text
    assert text.count('<img src="data:image/') == 9


def test_pictures_are_small_and_labels_keep_their_classes() -> None:
    label = np.zeros((700, 900), dtype=np.uint8)
    label[:, 450:] = 2
    image = np.zeros((700, 900, 3), dtype=np.uint8)
    for mapped in (image, label):
        mapped.flags.writeable = False  # as the cache's views are
    item = GalleryItem("x", image, label, np.zeros_like(label), 0.5)
    made = picture(item, palette(3, background=True))
    assert (made.width_px, made.height_px) == (MAX_SIDE_PX, 249)
    assert made.agreement == pytest.approx(0.5)
    assert len(made.truth_uri) < 2000


def test_a_page_without_curves_importances_and_pictures(facts: ReportFacts, tmp_path: Path) -> None:
    bare = replace(facts, curves={}, importances={}, gallery=(), warnings={}, notes=(), paths={}, rungs=())
    write_report(tmp_path / "report.html", bare)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="curves"' not in text
    assert "#gallery" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_scores_that_could_not_be_had_are_dashes(facts: ReportFacts, tmp_path: Path) -> None:
    ensemble = as_json(facts.ensemble)
    for rule in ensemble["rules"]:
        rule["val_crossfit"] |= {"miou": None, "low": None, "high": None}
        rule["gain_crossfit"] |= {"low": None, "high": None}
        rule["gain_holdout"] |= {"gain": float("nan"), "low": None, "high": None}
    write_report(tmp_path / "report.html", replace(facts, ensemble=EnsembleResult.model_validate(ensemble)))
    assert "– to –" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_hold_out_that_was_opened_twice_and_absent_classes_are_told(facts: ReportFacts, tmp_path: Path) -> None:
    ensemble = as_json(facts.ensemble)
    ensemble["holdout_opened"] *= 2
    for rule in ensemble["rules"]:
        for key in ("iou", "iou_low", "iou_high"):
            rule["holdout"][key][2] = None
    write_report(tmp_path / "report.html", replace(facts, ensemble=EnsembleResult.model_validate(ensemble)))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "opened 2 times" in text
    assert "left out of the mean: Glass &amp; co" in text


def test_numbers_are_written_for_readers() -> None:
    assert [tables.write_gain(g) for g in (0.0123, -0.0123, -0.0001, None)] == ["+0.012", "−0.012", "0.000", "–"]
    assert [tables.write_share(s) for s in (0, 0.0001, 0.1234, np.nan)] == ["0.0%", "<0.1%", "12.3%", "–"]
    assert tables.write_moment("2026-05-01T12:03:44+00:00") == "2026-05-01 12:03 UTC"
    spans = [("2026-05-01T10:00:00", "2026-05-01T12:05:30"), ("2026-05-01T10:00:00", "2026-05-01T10:04:10")]
    assert [tables.write_duration(*span) for span in spans] == ["2 h 05 min", "4 min 10 s"]


def test_the_forest_puts_zero_and_all_gains_on_one_axis(facts: ReportFacts) -> None:
    forest = tables.forest(facts.ensemble.rules)
    assert set(forest.bars) == {"hard_vote", "geometric_mean", "member_class"}
    bar = forest.bars["member_class"]
    assert 4 == bar.low < forest.zero < bar.gain < bar.high == 96
    assert not bar.certain


def test_the_best_curves_are_drawn_and_what_ships_lies_on_top() -> None:
    curves = {f"{n}": [{"epoch": 1, "val/miou": n / 100}] for n in range(100)}
    drawn = charts.drawn_trials(curves, ["3", "99"])
    assert len(drawn) == charts.MAX_CURVES
    assert drawn[-2:] == ["99", "3"]
    assert drawn[-3] == "98"
    assert drawn[0] == "37"


def test_the_gallery_asks_for_the_worst_images(facts: ReportFacts) -> None:
    assert list(worst_images(facts.ensemble, limit=2)) == ["2.jpg", "1.jpg"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, to open the page as a reader would")
def test_a_browser_draws_every_chart_without_an_error_or_sideways_scrolling(page: Path, tmp_path: Path) -> None:
    frame = (
        f'<body style="margin:0"><iframe id="f" src="{page.name}" style="border:0;width:390px;height:900px"></iframe>'
    )
    probe = """<script>addEventListener('load', () => setTimeout(() => {
      const page = document.getElementById('f').contentDocument;
      page.querySelector('#trials button').click();
      console.log('PROBE ' + JSON.stringify([
        page.documentElement.scrollWidth, page.querySelectorAll('.chart .cartesianlayer').length > 3,
        page.querySelector('#trials th').getAttribute('aria-sort')]));
    }, 1500))</script>"""
    (tmp_path / "frame.html").write_text(frame + probe, encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
            "--v=0", "--virtual-time-budget=6000", "--window-size=1280,900", "--hide-scrollbars",
            f"--screenshot={tmp_path / 'page.png'}",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert "PROBE [390,true,ascending]" in console[0].replace('"', "").replace("\\", "")


def test_the_post_processed_row_says_of_which_rule_it_is_and_why(facts: ReportFacts, tmp_path: Path) -> None:
    row = facts.ensemble.rules[-1].model_copy(update={"name": "postprocessed", "of": "member_class"})
    post = facts.ensemble.postprocess.model_copy(update={"kept": True, "reason": "it gains +0.004 mIoU"})
    ensemble = facts.ensemble.model_copy(update={"rules": (*facts.ensemble.rules, row), "postprocess": post})
    write_report(tmp_path / "report.html", replace(facts, ensemble=with_shipped(ensemble, "postprocessed")))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A weight per member and class, post-processed <span" in text
    assert "kept, it gains +0.004 mIoU." in text


@pytest.mark.parametrize(
    ("fitted_on", "said"),
    [
        (FittedOn(kind="val", images=55), "fitted on the 55 images of val"),
        (
            FittedOn(kind="out_of_fold", images=797, folds=5),
            "fitted out of fold on 797 .*never saw it \\(5 folds\\)",
        ),
    ],
)
def test_what_rules_were_fitted_on_stands_in_one_line(
    facts: ReportFacts, tmp_path: Path, fitted_on: FittedOn, said: str
) -> None:
    ensemble = facts.ensemble.model_copy(update={"fitted_on": fitted_on})
    write_report(tmp_path / "report.html", replace(facts, ensemble=ensemble))
    assert re.search(f"<p>Rules were {said}.*</p>", (tmp_path / "report.html").read_text(encoding="utf-8"))


def test_bundles_that_a_user_chose_are_named_now_or_later(facts: ReportFacts, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    export = {"said": "the user ships <i>soft_vote</i>", "out": "/runs/<b>", "at": "2026-05-02"}
    write_report(out, replace(facts, exports=[export]))
    now = out.read_text(encoding="utf-8")
    assert "the user ships &lt;i&gt;soft_vote&lt;/i&gt; (<code>/runs/&lt;b&gt;</code>, 2026-05-02)" in now
    write_report(out, facts)
    assert "Shipped by choice" not in out.read_text(encoding="utf-8")
    assert mark_exports(out, [export])
    assert out.read_text(encoding="utf-8") == now


def test_the_pick_by_one_standard_error_stands_beside_the_winner(facts: ReportFacts, tmp_path: Path) -> None:
    families = leaderboard([Entry("0000", "convnext", "tiny", 4, False, "cpu", 1.0, 0.5)], [], {}, {})
    contenders = (Contender("<b>a</b>", 0.62, 30.0, 0.0, 0.0), Contender("0001", 0.61, 12.5, 0.01, 0.02))
    found = Overtuning(contenders, expected=0.59, regret=0.004, with_seeds=False)
    write_report(tmp_path / "report.html", replace(facts, families=families, overtuning=found))
    text = Elements((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "0.5900 is expected on new images: being the best of 2 flatters it by 0.0300" in text
    assert "The pick by one standard error is 0001" in text
    assert text.index("<b>a</b> winner") < text.index("0001 pick by one standard error")
