"""The command line: what it refuses, at once and in one message, and one whole run on real parts."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import family_of, open_to_others
from PIL import Image
from typer.testing import CliRunner

from search.observers.event_log import curves, read_events
from search.observers.tensorboard_tracker import scalars_in
from search.run import app
from search.run_lock import hold
from search.start import is_disk_full
from trainables.data.card import read_card
from trainables.data.raster import rasterise
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic
from trainables.metrics import confusion, miou

ROOT = Path(__file__).parents[2]
TINY = (
    *("--set", "model.backbone={choice: [test_convnext, test_convnext2]}"),
    *("--set", "model.head={name: segformer, channels: 16}"),
    *("--set", "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}"),
    *("--set", "train.batch_size=4", "--set", "search.max_epochs=2", "--set", "search.grace_epochs=1"),
    *("--set", "tta={scales: [1.0], flips: [none, horizontal]}", "--set", "ensemble.sample_mb=4"),
    *("--set", "ensemble.resamples=200", "--no-dashboard", "--profile", "cpu"),
)


def refused(*arguments: str) -> str:
    """The message of a command that must end with exit code 2."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "optimzer.lr=1"), "did you mean 'optimizer'"),
        (("--set", "model.backbone=convnext_atoo"), "nearest: convnext_atto"),
        (("--set", "train.batch_size=8", "--set", "train.accumulate=3"), "use a divisor of 8"),
        (("--set", "augmentation.crop_px=500"), "use 480 or 512"),
        (("--profile", "gpux"), "unknown profile 'gpux'"),
        (("--data", "nowhere.yaml"), "the data card cannot be read"),
        (("--tracker", "mlflo"), "did you mean mlflow?"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(arguments: Sequence[str], message: str) -> None:
    profile = () if "--profile" in arguments else ("--profile", "cpu")
    assert message in refused("--space", "convnext.yaml", *profile, *arguments)


def test_a_run_needs_a_space() -> None:
    assert "give --space" in refused()


def test_resume_needs_a_run(tmp_path: Path) -> None:
    assert "run.json" in refused("--resume", str(tmp_path))


def test_resume_must_be_given_the_original_arguments(tmp_path: Path) -> None:
    asked = {"space": "convnext.yaml", "data": None, "assignments": [], "profile": None}
    record = {"asked": asked, "profile": "cpu", "card": "", "data_fingerprint": "", "versions": {}, "stages": {}}
    record |= {"started": "2026-05-01T12:00:00+00:00", "space": "convnext.yaml", "seed": 0, "split_fingerprint": ""}
    (tmp_path / "run.json").write_text(json.dumps(record))
    message = refused("--resume", str(tmp_path), "--space", "swin.yaml", "--set", "seed=1", "--warm-start", "/a", "/b")
    assert "--space: 'swin.yaml', but the run was started with 'convnext.yaml'" in message
    assert "--set: ['seed=1']" in message
    assert "--warm-start: ['/a', '/b'], but the run was started with None" in message


def test_other_data_on_resume_are_refused_before_ray_starts(tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "data", num_images=18, image_px=64, seed=0)
    asked = {"space": "convnext.yaml", "data": str(card), "assignments": [], "profile": None}
    record = {"asked": asked, "profile": "cpu", "card": str(card), "data_fingerprint": "another", "versions": {}}
    record |= {"started": "2026-05-01T12:00:00+00:00", "space": "convnext", "split_fingerprint": "", "stages": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    message = refused("--resume", str(tmp_path), "--cache-dir", str(tmp_path / "cache"))
    assert "a resumed run needs the data that it began with (another)" in message
    assert "Ray: starting" not in message


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_a_full_disk_is_recognised_behind_other_errors(error: Exception, full: bool) -> None:
    outer = RuntimeError("the search failed")
    outer.__cause__ = error
    assert is_disk_full(outer) is full


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["--space", "convnxt.yaml", "--debug"])
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_anything_is_kept(
    number: signal.Signals, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.start._card", lambda *_: signal.raise_signal(number))
    result = CliRunner().invoke(app, ["--space", "convnext.yaml", "--profile", "cpu"])
    assert result.exit_code == exit_code
    assert result.output == "stopped before anything was kept; start it again\n"


def test_a_run_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    with hold(tmp_path, print):
        (tmp_path / "run.json").write_text("{}")
        message = refused("--resume", str(tmp_path))
    assert f"process {os.getpid()} on host" in message


def test_help_and_mistakes_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from search.run import app;"
        "CliRunner().invoke(app, ['--space', 'convnext.yaml', '--set', 'a=1']);"
        "print({'torch', 'ray', 'timm', 'optuna'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def start(*arguments: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "search/run.py", *arguments, "--cache-dir", str(cache)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=580)
    assert process.returncode == 0, output
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 200) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "timed out"
        time.sleep(0.2)


def ended_trials(run: Path) -> list[dict[str, Any]]:
    events = run / "events.jsonl"
    return [event for event in read_events(events) if event["event"] == "trial_ended"] if events.exists() else []


def miou_of_pngs(card: Path, folder: Path) -> float:
    """Of label PNGs against the card's hold-out, painted anew: nothing of the ensemble stage is used."""
    index = read(read_card(card))
    counts = np.zeros((index.num_classes, index.num_classes), np.int64)
    for record in index.images:
        if record.role == "holdout":
            label = np.asarray(Image.open((folder / record.image_id).with_suffix(".png")))
            counts += confusion(rasterise(record, 255, background=True), label, index.num_classes)
    return float(miou(counts))


@pytest.mark.slow
def test_killed_resumed_and_shipped(tmp_path: Path) -> None:
    """SIGKILL after the first trial; the resumed run loses nothing; its bundle reproduces the verdict."""
    card = write_synthetic(tmp_path / "data", num_images=40, image_px=64, seed=1)
    run = tmp_path / "run"
    arguments = ("--space", "convnext.yaml", "--data", str(card), "--set", "search.num_trials=4", *TINY)
    killed = start(*arguments, "--run-dir", str(run), cache=tmp_path / "cache")
    wait_for(lambda: len(ended_trials(run)) >= 1, killed)
    assert open_to_others(family_of(killed.pid)) == []
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = ended_trials(run)

    output = finish(start(*arguments, "--resume", str(run), cache=tmp_path / "cache"))

    after = ended_trials(run)
    assert after[: len(before)] == before
    assert sorted(event["trial"] for event in after) == ["00000", "00001", "00002", "00003"]
    assert "report.html" in output
    again = finish(start("--resume", str(run), "--tracker", "tensorboard", cache=tmp_path / "cache"))
    assert "search: done at" in again
    assert "report: done at" in again
    told = curves(read_events(run / "events.jsonl"))
    for trial, epochs in told.items():
        tags = [step for step, tag, _ in scalars_in(run / "tensorboard" / trial) if tag == "val/miou"]
        assert tags == [event["epoch"] for event in epochs]
    assert any((run / "tensorboard" / "search").iterdir())

    assert "What the winner owes to chance" in (run / "report.html").read_text(encoding="utf-8")
    predict = [sys.executable, "analysis/predict.py", "--bundle", str(run / "bundle"), "--images", str(card.parent)]
    subprocess.run([*predict, "--out", str(tmp_path / "out")], cwd=ROOT, check=True, capture_output=True)
    ensemble = json.loads((run / "ensemble.json").read_text())
    shipped = next(rule for rule in ensemble["rules"] if rule["name"] == ensemble["verdict"]["rule"])
    assert miou_of_pngs(card, tmp_path / "out") == pytest.approx(shipped["holdout"]["miou"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "trash_sample"])
def test_real_data_runs_through(name: str, shared_data: Path, tmp_path: Path) -> None:
    """About 200 updates on the real sets, to a verdict and a bundle."""
    card = shared_data / name / "data.yaml"
    arguments = ("--space", "convnext.yaml", "--data", str(card), "--run-dir", str(tmp_path / "run"))
    fewer = ("--set", "search.num_trials=2", "--set", "model.backbone=test_convnext2")
    output = finish(start(*arguments, *TINY, *fewer, cache=tmp_path / "cache"))
    assert "ship the single model" in output or "ship the ensemble" in output
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()


@pytest.mark.slow
def test_a_run_a_fold_judges_every_label_and_leaves_the_holdout_sealed(tmp_path: Path) -> None:
    """A split file, a whole run of two trials on its first fold, logits alone on its second, and what both doubt."""
    card = write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=3)
    split, folds, cache = tmp_path / "split.json", tmp_path / "folds", tmp_path / "cache"
    common = ("--data", str(card), "--cache-dir", str(cache))
    tool("split", *common, "--out", str(split), "--folds", "2", "--backbone", "test_resnet")
    one = ("--space", "convnext.yaml", "--data", str(card), *TINY, "--set", f"split.file={split}")
    for fold, more in enumerate(
        [("--set", "search.num_trials=2"), ("--set", "search.num_trials=1", "--until", "logits")]
    ):
        finish(start(*one, "--set", f"split.fold={fold}", *more, "--run-dir", str(folds / f"{fold}"), cache=cache))
    assert json.loads((folds / "0" / "ensemble.json").read_text())["verdict"]["sentence"]
    assert not (folds / "1" / "ensemble.json").exists()
    written = json.loads(split.read_text())
    for fold, ids in enumerate(written["folds"]):
        asked = json.loads((folds / f"{fold}" / "data.json").read_text())
        assert set(asked["val"]) == set(ids)
        assert set(asked["train"]) == set(written["folds"][1 - fold])

    tool("cleanse", "--run", str(folds), "--out", str(tmp_path / "suspects"), "--cache-dir", str(cache))
    judged = json.loads((tmp_path / "suspects" / "suspects.json").read_text())["images"]
    assert set(judged) == {image_id for ids in written["folds"] for image_id in ids}
    listed = str(tmp_path / "suspects" / "suspects.csv")
    assert "applied: " in tool("cleanse", "--data", str(card), "--apply", listed, "--out", str(tmp_path / "corrected"))
    read(read_card(tmp_path / "corrected" / "data.yaml"))


@pytest.mark.slow
def test_folds_fit_on_every_label_outside_the_hold_out_and_ship_their_mean(tmp_path: Path) -> None:
    """Two trials, the better one on two folds; what ships reproduces the verdict, and every label is judged."""
    card = write_synthetic(tmp_path / "data", num_images=40, image_px=64, seed=4)
    run, cache = tmp_path / "run", tmp_path / "cache"
    few = ("--set", "search.num_trials=2", "--set", "search.noise_repeats=2", "--set", "folds={num: 2, recipes: 1}")
    output = finish(
        start("--space", "convnext.yaml", "--data", str(card), *TINY, *few, "--run-dir", str(run), cache=cache)
    )
    assert "folds: 1 recipes x 2 folds and a refit, about 0." in output
    floor = json.loads((run / "noise.json").read_text())
    assert len(set(floor["seeds"])) == len(floor["mious"]) == 2
    assert "mIoU are ties" in output
    assert "with one refit per recipe instead of the mean of its fold models: " in output
    data, folds = json.loads((run / "data.json").read_text()), json.loads((run / "folds.json").read_text())["folds"]
    every = sorted((*data["train"], *data["val"]))
    assert sorted(image_id for fold in folds for image_id in fold) == every
    ensemble = json.loads((run / "ensemble.json").read_text())
    assert ensemble["fitted_on"] == {"kind": "out_of_fold", "images": len(every), "folds": 2}
    assert (ensemble["form"], [form["form"] for form in ensemble["other_forms"]]) == ("mean", ["refit"])
    [member] = ensemble["members"]
    assert member["trial"].startswith("folds-0000")

    tool("predict", "--bundle", str(run / "bundle"), "--images", str(card.parent), "--out", str(tmp_path / "out"))
    shipped = next(rule for rule in ensemble["rules"] if rule["name"] == ensemble["verdict"]["rule"])
    assert miou_of_pngs(card, tmp_path / "out") == pytest.approx(shipped["holdout"]["miou"], abs=1e-4)
    tool("cleanse", "--run", str(run), "--out", str(tmp_path / "suspects"), "--cache-dir", str(cache))
    assert sorted(json.loads((tmp_path / "suspects" / "suspects.json").read_text())["images"]) == every
    assert "Rules were fitted out of fold on" in (run / "report.html").read_text(encoding="utf-8")


def tool(name: str, *arguments: str) -> str:
    command = [sys.executable, f"analysis/{name}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
