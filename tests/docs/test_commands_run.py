"""The documentation's commands and Python snippets are run, page by page and in document order, in a folder that holds
what they name: tiny data and a finished run. This project's own commands run in this process, bash only splits them
into words, and `run` goes as far as its first stage: tests/search/test_run.py runs searches whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docs.routes import served
from docs.scratch import CACHE, logits_without_ray, write_scratch
from docs.shell import PAGES, ROOT, blocks_of, commands_in
from docs.test_commands import resolve
from typer.testing import CliRunner

from search import start
from search.cli import app
from search.stages.stage import Context, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SHELL = ("sh", "bash", "console")
NOT_RUN = {  # a command begins with these words -> why it cannot run here
    "source .venv/bin/activate": "there is no .venv yet; the suite runs in the environment that make set up",
    "pip install": "needs a network, and changes the environment that the suite runs in",
    "ray get-auth-token": "writes into the home folder; tests/search/cluster starts nodes with a token of their own",
    "ray start": "listens on all interfaces; tests/search/cluster starts nodes on loopback",
    "ray job submit": "needs a cluster; tests/search/cluster/test_job_submit.py submits this to one",
    "segsearch audit runs/... --train-on": "trains in Ray, as tests/search/stages/test_stopped_trials.py does",
    "python search/serve.py": "starts Ray Serve and serves until it is stopped, as tests/search/serving does",
    "segsearch serve": "the same; what it answers is asked of its routes here",
}
EXAMPLES = {  # what pages name by example -> what it is here
    "runs/...": "runs/a",
    "runs/convnext-20260102-120000": "runs/a",
    "RUN/bundle": "runs/a/bundle",
    "s3://bucket/runs/a?region=eu-central-1": "file://{folder}/bucket/a",
    "http://127.0.0.1:8000": "{server}",
    "load.py": "runs/a/bundle/load.py",
    "EnsembleOptions()": "EnsembleOptions(folds=2, resamples=100, sample_mb=1, max_sweeps=2, stacking='off')",
    "backbone=convnext*": "backbone=test_conv*",
    "val>=0.5": "val>=0.05",
    "list.csv": "suspects/suspects.csv",  # what the page saves once errors are ticked; `cleanse` writes all as the like
}
MISSING = {"start.md": ("data.yaml",)}  # what a reader of this page alone does not have
SMALL = [  # all of these words in a command -> what is appended to it
    (("run", "--warm-start"), ("--space", "runs/a/space.yaml")),  # that of the runs whose trials join
    (("mix",), ("--num-images", "4", "--size-px", "64")),
    (("distil",), ("--epochs", "1")),
    (("pseudo",), ("--set", "rounds=1")),
    (("ensemble", "--logits"), ("--folds", "2", "--sample-mb", "1", "--postprocess", "off")),
    (("export", "--format"), ("--trial", "0")),  # one network
    (("space", "--show"), ("--show", "convnext.yaml", "--profile", "cpu")),  # its training steps are timed
    (("space", "--show"), ("--set", "augmentation={short_px: 64, crop_px: 64}", "--set", "train.batch_size=2")),
    (("predict", "--workers"), ("--workers", "1")),  # each process imports torch anew
]


@dataclass
class Page:
    """A page's folder, and what runs while its commands do."""

    folder: Path
    cache: Path
    server: str

    def named_here(self, word: str) -> str:
        for example, here in EXAMPLES.items():
            word = word.replace(example, here.format(folder=self.folder, server=self.server))
        return word

    def run(self, given: Sequence[str]) -> str:
        """What a command says. Raises AssertionError where it fails."""
        words = own_command([self.named_here(word) for word in given])
        if words[0] == "make":
            return finished([*words, "--dry-run"], ROOT)
        if words[0] in ("curl", "python"):
            program = sys.executable if words[0] == "python" else words[0]
            return finished([program, *words[1:]], self.folder)
        assert words[0] == "segsearch", f"neither run nor listed in NOT_RUN: {given}"
        more = self.appended(words)
        done = CliRunner().invoke(app, [*words[1:], *more])
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
        return done.output

    def appended(self, words: Sequence[str]) -> list[str]:
        command, _ = resolve(" ".join(words[:2]))
        has_cache = any("--cache-dir" in parameter.opts for parameter in command.params)
        more = [word for needed, extra in SMALL if set(needed) <= set(words) for word in extra]
        return [*more, *(("--cache-dir", str(self.cache)) if has_cache and "--help" not in words else ())]


def own_command(words: list[str]) -> list[str]:
    """`python search/run.py` as `segsearch run`, which is the same function."""
    if words[0] == "python" and words[1].startswith(("search/", "analysis/")):
        assert (ROOT / words[1]).is_file(), words[1]
        return ["segsearch", Path(words[1]).stem, *words[2:]]
    return words


def finished(command: Sequence[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown_on(path: Path) -> list[list[str]]:
    """The words of every command on a page."""
    return [words for block in blocks_of(path) if block.language in SHELL for words in commands_in(block.text)]


def reason_not_to_run(words: Sequence[str]) -> str | None:
    text = " ".join(words)
    return next((reason for begin, reason in NOT_RUN.items() if text.startswith(begin)), None)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scratch")
    write_scratch(root)
    return root


@pytest.fixture(scope="module")
def server(drawn: Path) -> Iterator[str]:
    with served(drawn / "runs" / "a" / "bundle") as address:
        yield address


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` checks, reads, splits and records everything, and joins no cluster; its stages write logits at most."""

    def stages(claimed: Any, context: Context) -> None:
        if claimed.asked.until is Stage.logits:
            logits_without_ray(context)

    monkeypatch.setattr("search.cluster.connection.connected", lambda *_, **__: nullcontext(0.0))
    monkeypatch.setattr("search.cluster.run_files.files_of", lambda *_, **__: nullcontext())
    monkeypatch.setattr(start, "_run_stages", stages)


@pytest.fixture
def page(
    request: pytest.FixtureRequest, drawn: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Page:
    """The folder of a page, which is the current one."""
    folder = Path(shutil.copytree(drawn, tmp_path / "page", ignore=shutil.ignore_patterns(CACHE, "drawn")))
    for name in MISSING.get(request.param.name, ()):
        (folder / name).unlink()
    monkeypatch.chdir(folder)
    return Page(folder, drawn / CACHE, server)


@pytest.mark.parametrize(
    ("page", "path"), [pytest.param(path, path, id=path.name) for path in PAGES], indirect=["page"]
)
def test_what_a_page_shows_runs(page: Page, path: Path, without_ray: None) -> None:
    broken, done_before = [], [words for before in PAGES[: PAGES.index(path)] for words in shown_on(before)]
    for block in blocks_of(path):
        if block.language == "python":
            exec(compile(page.named_here(block.text), str(path), "exec"), {})  # noqa: S102
        for words in commands_in(block.text) if block.language in SHELL else ():
            if reason_not_to_run(words) is None and words not in done_before:
                try:
                    page.run(words)
                except AssertionError as error:
                    broken.append(f"{' '.join(words)}\n{error}")
    assert not broken, "\n\n".join(broken)


def test_what_is_not_run_is_in_a_page() -> None:
    shown = [" ".join(words) for path in PAGES for words in shown_on(path)]
    assert [begin for begin in NOT_RUN if not any(text.startswith(begin) for text in shown)] == []


def test_what_is_replaced_or_made_small_is_in_a_page() -> None:
    shown = [own_command(words) for path in PAGES for words in shown_on(path)]
    text = "".join(block.text for path in PAGES for block in blocks_of(path))
    assert [example for example in EXAMPLES if example not in text] == []
    assert [needed for needed, _ in SMALL if not any(set(needed) <= set(words) for words in shown)] == []
