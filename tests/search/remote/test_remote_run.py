"""A run at s3:// comes to what a run in a folder comes to, wherever it goes on; what cannot be kept is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.engine.study_file import open_study
from search.observers.trial_row import TrialRow, study_rows
from search.remote import mirror
from search.remote.keep import kept_at
from search.remote.working_copy import WorkingCopy, working_copy
from search.run_dir import RunDir
from trainables.data.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[3]
TINY = (
    *("--space", "convnext.yaml", "--profile", "cpu", "--no-dashboard", "--set", "search.num_trials=1"),
    *("--set", "model.backbone={choice: [test_convnext, test_convnext2]}", "--set", "search.max_concurrent=1"),
    *("--set", "model.head={name: segformer, channels: 16}", "--set", "train.batch_size=4"),
    *("--set", "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}"),
    *("--set", "search.max_epochs=1", "--set", "search.grace_epochs=1", "--set", "tta={scales: [1.0], flips: [none]}"),
    *("--set", "ensemble.sample_mb=4", "--set", "ensemble.resamples=200"),
)


def outcome(rows: list[TrialRow]) -> list[Any]:
    """What does not depend on the clock or the folder."""
    return [(row.number, row.state, row.recipe_hash, row.epochs, row.best_miou) for row in rows]


def on_machine(uri: str, cache: Path) -> WorkingCopy:
    copy = working_copy(Path(uri), "--run-dir", cache)
    assert copy is not None
    copy.root.mkdir(parents=True)
    return copy


def test_a_search_whose_storage_dies_and_comes_back(
    uri: str, door: Any, tmp_path: Path, search_in: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same trials as without; and a machine that has nothing yet finds every one of them, with its checkpoint."""
    monkeypatch.setattr(mirror, "EVERY_S", 0.1)
    (tmp_path / "plain").mkdir()
    plain = search_in(folder=tmp_path / "plain", max_concurrent=1)
    one, said = on_machine(uri, tmp_path / "one"), list[str]()

    def open_when_missed() -> None:
        while not any("does not answer" in line for line in said):
            time.sleep(0.05)
        door.open()

    with kept_at(one, is_new=True, resume="", say=said.append):
        (one.root / "run.json").write_text("{}")
        door.shut()
        threading.Thread(target=open_when_missed, daemon=True).start()
        rows = search_in(folder=one.root, max_concurrent=1, trainable=toy.make_trainable(epoch_s=0.02))
    assert outcome(rows) == outcome(plain)
    assert any("answers again" in line for line in said)
    two = on_machine(uri, tmp_path / "two")
    with kept_at(two, is_new=False, resume="", say=print):
        fetched = study_rows(open_study(RunDir(two.root).study_db), two.root)
    assert outcome(fetched) == outcome(plain)
    assert all((Path(str(row.checkpoint)) / "state.json").is_file() for row in fetched)


@pytest.fixture
def no_key_is_known(s3_port: int) -> Iterator[None]:
    """The server asks for keys, of which it has none."""

    def allow(requests: str) -> None:
        place = f"http://127.0.0.1:{s3_port}/moto-api/reset-auth"
        asked = urllib.request.Request(place, requests.encode(), {"Content-Type": "text/plain"}, method="POST")
        urllib.request.urlopen(asked).close()  # noqa: S310

    allow("0")
    yield
    allow("inf")


def refused(uri: str, cache: Path) -> str:
    result = CliRunner().invoke(app, ["run", *TINY, "--run-dir", uri, "--cache-dir", str(cache)])
    assert result.exit_code == 2, result.output
    assert not [path for path in cache.iterdir() if path.name != "remote-runs"]  # no data were decoded
    return result.output


def test_a_wrong_key_is_refused_before_anything_else(uri: str, no_key_is_known: None, tmp_path: Path) -> None:
    message = refused(uri, tmp_path / "cache")
    assert re.search(r"--run-dir must name storage that .* see that the keys in the environment", message)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in message


def test_a_wrong_bucket_and_a_server_that_is_away_are_refused(uri: str, door: Any, tmp_path: Path) -> None:
    assert "create the bucket" in refused(uri.replace("s3://runs", "s3://nowhere"), tmp_path / "cache")
    door.shut()
    assert "that the server answers" in refused(uri, tmp_path / "cache")


@pytest.mark.parametrize(
    "command", [["report", "--run"], ["export", "--rule", "soft_vote", "--run"], ["audit"], ["table"]]
)
def test_other_commands_say_how_to_get_the_run(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "s3://runs/a?scheme=http"])
    assert "segsearch fetch 's3://runs/a?scheme=http' --out DIR" in result.output


def finished(*arguments: str) -> str:
    """What a run prints that has a process, and a Ray, of its own."""
    command = [sys.executable, "search/run.py", *arguments, "--until", "search"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_at_s3_goes_on_from_a_fresh_machine(uri: str, tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "data", num_images=20, image_px=64, seed=1)
    place = ("--data", str(card), "--run-dir", uri, "--cache-dir", str(tmp_path / "one"))
    first = finished(*TINY, *place)
    assert f"--resume '{uri}'" in first
    second = finished("--resume", uri, "--cache-dir", str(tmp_path / "two"))
    assert "search: done at" in second
    fetched = CliRunner().invoke(app, ["fetch", uri, "--out", str(tmp_path / "fetched")])
    assert fetched.exit_code == 0, fetched.output
    run = RunDir(tmp_path / "fetched")
    (row,) = study_rows(open_study(run.study_db), run.root)
    assert row.state == "COMPLETE"
    assert (Path(str(row.checkpoint)) / "best.safetensors").is_file()
    written = (path.read_bytes() for path in run.root.rglob("*") if path.is_file())
    assert not any(os.environ["AWS_SECRET_ACCESS_KEY"].encode() in content for content in written)
