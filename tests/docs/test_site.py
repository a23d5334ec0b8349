"""The documentation builds as a site without a warning, and the site asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)")
PAGES = ("index.html", "start/index.html", "guide/index.html", "cluster/index.html", "space/index.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / ".ci" / "mkdocs.yml", "-d", folder]
    built = subprocess.run(
        command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_it_has_every_page(site: Path) -> None:
    assert all((site / page).is_file() for page in PAGES)


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    assert [found for page in site.rglob("*.html") for found in LOADED.findall(page.read_text(encoding="utf-8"))] == []


def test_files_outside_the_documentation_are_named_not_linked(site: Path) -> None:
    page = (site / "cluster" / "index.html").read_text(encoding="utf-8")
    assert "<code>search/cluster/deploy/slurm.sh</code>" in page
    assert 'href="../search' not in page
