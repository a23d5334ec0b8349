"""Every page of a finished run in a real browser: three widths, light, dark and print; nothing is asked of a network,
nothing hangs out of the page, axe-core has no serious finding."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from factories import make_ensemble, make_member
from typer.testing import CliRunner

from analysis.report.page import ReportFacts, write_report
from search.cli import app
from search.observers.event_log import append_event
from search.run_dir import RunDir, read_json, write_json
from search.stages.bundle import facts_of, weights_of

pytestmark = pytest.mark.slow
WIDTHS_PX = (1400, 900, 390)
PAPER_PX = 720
MAX_BYTES = 8 * 2**20
PAGES = (
    "run/report.html",
    "run/classes/class-001.html",
    "compare.html",
    "eda.html",
    "split.html",
    "run/suspects/suspects.html",
    "wide.html",
)
# tables that are cut off at their region's edge
CUT_OFF = """() => [...document.querySelectorAll(".scroll")]
  .filter((one) => one.querySelector("table") && one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby"))"""
# on paper nothing scrolls: whatever reaches beyond the page is lost
BEYOND_PAPER = """() => [...document.querySelectorAll("td, th, svg.main-svg, img, pre, code")]
  .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def pages(finished_run: Path, card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all PAGES."""
    from analysis.bundle.export import export
    from analysis.ensembling.result import EnsembleResult

    root, cache = tmp_path_factory.mktemp("pages"), str(finished_run.parent / "cache")
    for name in ("run", "other"):
        shutil.copytree(finished_run, root / name)
    run = RunDir(root / "run")
    ensemble = EnsembleResult.read(run.ensemble_json)
    export(facts_of(run), ensemble, weights_of(run, ensemble), run.bundle, ensemble_dir=run.root)
    record = read_json(run.run_json)
    write_json(
        run.run_json,
        record | {"stages": record["stages"] | {"bundle": record["started"]}, "stage_s": {"ensemble": 3.5}},
    )
    begun_s = datetime.fromisoformat(record["started"]).timestamp()
    task = {"event": "task", "stage": "logits", "name": "00000", "began": begun_s + 5, "cpu": 1.0, "gpu": 0.0}
    append_event(run.events, {"at": begun_s + 60, **task})
    for command in (
        ["cleanse", "--run", str(run.root), "--out", str(run.suspects), "--cache-dir", cache],
        ["report", "--run", str(run.root), "--cache-dir", cache],
        ["report", "--compare", str(run.root), str(root / "other"), "--out", str(root / "compare.html")],
        ["eda", "--data", str(card), "--out", str(root / "eda.html"), "--workers", "1"],
        ["split", "--data", str(card), "--out", str(root / "split.json"), "--cache-dir", cache],
    ):
        written = CliRunner().invoke(app, command)
        assert written.exit_code == 0, written.output
    write_report(root / "wide.html", wide_facts())
    return root


def wide_facts() -> ReportFacts:
    """Trials with long names and more parameters than a page has room for columns."""
    row = {"state": "DIVERGED", "best mIoU": 0.1234, "best epoch": 100, "epochs": 120, "gpu seconds": 123456.7}
    row |= {"backbone": "convnext_xxlarge.clip_laion2b_soup_ft_in12k", "head": "mask_classification"}
    row |= {"tie with the best": "yes", "error": "torch.OutOfMemoryError: CUDA out of memory", "recipe": "1e5555555555"}
    row |= {f"augmentation/geometric/ShiftScaleRotate/limit_{n}": 1e-5 for n in range(30)}
    names = [f"{n:05d}" for n in range(3)]
    return ReportFacts(
        title="wide",
        started="2026-05-01T12:00:00+00:00",
        ended="2026-05-01T13:00:00+00:00",
        space="all",
        data="none",
        counts={},
        ensemble=make_ensemble(["Background", "Paper", "Glass"], [make_member(name) for name in names]),
        trials=[{"trial": name} | row for name in names],
        curves={},
    )


@pytest.fixture
def opened(browser: Any, pages: Path, name: str) -> Iterator[Any]:
    """The page, which must have asked for itself alone and complained of nothing when it is closed."""
    page, requests, complaints = browser.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((pages / name).as_uri())
    yield page
    page.close()
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {(pages / name).as_uri()}
    assert complaints == []


def resize(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def serious(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['target']}" for one in grave for node in one["nodes"][:3]]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_can_be_used_at_every_width_in_light_and_dark(opened: Any, pages: Path, name: str) -> None:
    assert (pages / name).stat().st_size < MAX_BYTES
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        for width in WIDTHS_PX:
            resize(opened, width)
            overflow = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert (overflow, opened.evaluate(CUT_OFF)) == (0, []), (scheme, width)
        assert serious(opened) == [], scheme
    drawn = opened.evaluate("document.querySelectorAll('.chart .main-svg').length > 0")
    assert drawn == (opened.locator(".chart").count() > 0)


@pytest.mark.parametrize("name", PAGES)
def test_paper_keeps_every_column_and_plot(opened: Any, name: str) -> None:
    resize(opened, PAPER_PX)
    opened.emulate_media(media="print", color_scheme="dark")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(BEYOND_PAPER) == []
    assert opened.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    assert opened.evaluate("getComputedStyle(document.body).color") == "rgb(26, 29, 35)"  # dark ink
    hidden = "(one) => !one.checkVisibility() && !one.classList.contains('empty')"
    assert opened.evaluate(f"[...document.querySelectorAll('tbody td')].filter({hidden}).length") == 0


def test_sample_predictions_lie_beside_the_report(pages: Path) -> None:
    written = sorted(path.name for path in (pages / "run/samples").iterdir())
    assert written == [f"{kind}-{number}.jpg" for kind in ("best", "median", "worst") for number in (1, 2)]


@pytest.mark.parametrize("name", ["run/report.html"])
def test_pictures_are_enlarged_and_sorted_by_keyboard(opened: Any) -> None:
    opened.focus("ol.gallery .enlarge")
    opened.keyboard.press("Enter")
    assert opened.get_attribute("dialog img", "alt") == opened.get_attribute("ol.gallery img", "alt")
    opened.keyboard.press("Escape")
    assert opened.is_hidden("dialog")
    opened.select_option("#sort-by", "1")
    scores = opened.evaluate(
        "[...document.querySelectorAll('ol.gallery li')].map((one) => JSON.parse(one.dataset.ious)[1] ?? 2)"
    )
    assert scores == sorted(scores)


@pytest.mark.parametrize("name", ["run/report.html"])
def test_every_class_leads_to_its_page_and_back(opened: Any, pages: Path) -> None:
    links = opened.evaluate("[...document.querySelectorAll('#classes tbody a, #data a')].map((one) => one.href)")
    assert len(links) == 1 + opened.locator("#classes tbody tr").count()
    assert all(Path(link.removeprefix("file://")).is_file() for link in links)


@pytest.mark.parametrize("name", ["wide.html"])
def test_a_trials_settings_open_under_its_line(opened: Any) -> None:
    assert opened.is_hidden("#trials dl")
    opened.focus("#trials summary")
    opened.keyboard.press("Enter")
    assert opened.locator("#trials dl").first.locator("dt").count() == 31
    opened.click("#trials thead button")
    assert opened.get_attribute("#trials th", "aria-sort") == "ascending"
