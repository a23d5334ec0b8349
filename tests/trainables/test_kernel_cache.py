"""That no kernel outlives the sources that it was compiled from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.kernel_cache import state_of, use_own_folder

CALLED = "from numba import njit\n\n\n@njit(cache=True)\ndef called():\n    return {}\n"
CALLER = (
    "from numba import njit\n\nfrom trainables.called import called\n\n\n@njit(cache=True)\ndef caller():\n"
    "    return called()\n"
)
RUN = (
    "from pathlib import Path\nfrom trainables.kernel_cache import use_own_folder\nuse_own_folder(Path.cwd())\n"
    "from analysis.caller import caller\nprint(caller())\n"
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for package in ("trainables", "analysis"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "trainables/called.py").write_text(CALLED.format(1))
    (tmp_path / "analysis/caller.py").write_text(CALLER)
    own = Path(__file__).parents[2] / "trainables/kernel_cache.py"
    (tmp_path / "trainables/kernel_cache.py").write_bytes(own.read_bytes())
    return tmp_path


def test_a_kernel_is_compiled_anew_where_one_that_it_calls_changed(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    found = []
    for value in (1, 1, 2):
        (sources / "trainables/called.py").write_text(CALLED.format(value))
        run = subprocess.run([sys.executable, "-c", RUN], cwd=sources, capture_output=True, text=True, check=True)
        found.append(int(run.stdout))
    assert found == [1, 1, 2]
    assert len(list((sources / "trainables/__pycache__").glob("kernels-*"))) == 1


def test_a_folder_that_the_user_named_is_left_alone(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/somewhere")
    use_own_folder(sources)
    assert os.environ["NUMBA_CACHE_DIR"] == "/somewhere"


def test_sources_without_kernels_do_not_matter(sources: Path) -> None:
    before = state_of(sources)
    (sources / "analysis/plain.py").write_text("x = 1\n")
    assert state_of(sources) == before
