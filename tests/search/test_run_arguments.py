"""The command that goes on with a run, and where a run must not lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search.cluster.connection import RAY_JOB
from search.run_arguments import RunArguments, check_storage, resume_command
from trainables.command import DEFAULT_CACHE

ASKED = RunArguments("convnext.yaml", None, (), None, None, None, None, DEFAULT_CACHE, dashboard=False)
UNPACKED = Path("/tmp/ray/session_2026/runtime_resources/working_dir_files/_ray_pkg_ab")  # noqa: S108


@pytest.mark.parametrize(
    ("argv0", "expected"),
    [
        ("search/run.py", "python search/run.py --resume '/r/a b'"),
        ("/venv/bin/segsearch", "segsearch run --resume '/r/a b'"),
        ("/site/search/cli.py", "python /site/search/cli.py run --resume '/r/a b'"),
    ],
)
def test_the_hint_names_the_program_that_was_called(argv0: str, expected: str) -> None:
    assert resume_command(ASKED, (argv0, "--space", "x"), Path("/r/a b")) == expected


def test_the_hint_keeps_the_cluster_the_cache_and_the_trackers() -> None:
    asked = replace(ASKED, address="auto", cache_dir=Path("/scratch"), trackers=("mlflow",))
    hint = resume_command(asked, ("search/run.py",), Path("/r"))
    assert hint.endswith("--address auto --cache-dir /scratch --tracker mlflow")


def test_a_job_needs_a_run_directory_that_lasts_and_the_cluster() -> None:
    job = {RAY_JOB: "{}"}
    with pytest.raises(ValueError, match=r"(?s)--run-dir on storage that lasts.*--address auto"):
        check_storage(ASKED, job)
    check_storage(replace(ASKED, address="auto", run_dir=Path("/shared/runs/a")), job)
    check_storage(ASKED, {})


@pytest.mark.parametrize("flag", ["run_dir", "resume"])
def test_rays_own_folders_are_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.resolve", lambda path: UNPACKED / path)  # as a job's working directory is
    with pytest.raises(ValueError, match=rf"--{flag.replace('_', '-')} must lie outside Ray's own folders"):
        check_storage(replace(ASKED, **{flag: Path("runs/a")}), {})
    with pytest.raises(ValueError, match="needs --run-dir on storage that lasts"):
        check_storage(ASKED, {})
