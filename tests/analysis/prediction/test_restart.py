"""A prediction that was stopped goes on: what is skipped, what is refused, and that nothing of it shows in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from factories import files_of
from filelock import FileLock
from PIL import Image

from analysis.prediction.job import CsvLayout, Execution, Format, Job
from analysis.prediction.predict_images import predict_images
from analysis.prediction.restart import LOCK, STAMP

ONE_BY_ONE = Execution(device="cpu", batch_size=1)


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(count):
        pixels = np.random.default_rng(n).integers(0, 256, (48 + 16 * (n % 2), 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:03}.png")
    return folder


@pytest.mark.parametrize("output_format", [Format.png, Format.csv])
def test_a_run_that_is_killed_and_started_again_ends_like_one_that_was_not(
    tiny_bundle: Path, tmp_path: Path, output_format: Format
) -> None:
    images, whole, killed = many(tmp_path / "images", 40), tmp_path / "whole", tmp_path / "killed"
    args = ["--bundle", tiny_bundle, "--format", output_format, "--batch-size", 2, "--device", "cpu", "--out", killed]
    command = [sys.executable, "-m", "analysis.predict", *map(str, [*args, images])]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(killed.rglob("*.png"))) < 3 and running.poll() is None:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    finished = len(list(killed.rglob("*.png")))
    assert 3 <= finished < 40
    assert not (killed / "submission.csv").exists()
    how = Execution(device="cpu", batch_size=2)
    outcomes = [predict_images(Job(tiny_bundle, (str(images),), out, output_format, how)) for out in (killed, whole)]
    assert [(outcome.finished_before, outcome.predicted) for outcome in outcomes] == [
        (finished, 40 - finished),
        (0, 40),
    ]
    assert files_of(killed) == files_of(whole)


def test_finished_images_are_skipped_and_changed_and_new_ones_predicted(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    job = Job(tiny_bundle, (str(photos),), tmp_path / "out", execution=ONE_BY_ONE)
    assert predict_images(job).predicted == 3
    outcome = predict_images(job)
    assert (outcome.finished_before, outcome.predicted) == (3, 0)
    (photos / "new.png").write_bytes((photos / "a.png").read_bytes())
    later_ns = (tmp_path / "out" / "a.png").stat().st_mtime_ns + 10**9
    os.utime(photos / "a.png", ns=(later_ns, later_ns))
    outcome = predict_images(job)
    assert (outcome.finished_before, outcome.predicted) == (2, 2)


def test_other_settings_are_refused_and_taken_with_overwrite(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    inputs, out = (str(photos),), tmp_path / "out"
    predict_images(Job(tiny_bundle, inputs, out, execution=ONE_BY_ONE))
    other = Job(tiny_bundle, inputs, out, Format.csv, ONE_BY_ONE, layout=CsvLayout(separator=";"))
    with pytest.raises(ValueError, match=r"output_format png, now csv; .*--overwrite"):
        predict_images(other)
    written = (out / "a.png").read_bytes()
    anew = Job(tiny_bundle, inputs, out, execution=ONE_BY_ONE, overwrite=True)
    outcome = predict_images(anew)
    assert (outcome.finished_before, outcome.predicted) == (0, 3)
    assert (out / "a.png").read_bytes() == written


def test_another_bundle_is_other_settings(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    job = Job(tiny_bundle, (str(photos),), tmp_path / "out", execution=ONE_BY_ONE)
    predict_images(job)
    stamp = tmp_path / "out" / STAMP
    text = stamp.read_text(encoding="utf-8")
    at = text.index("bundle_sha256") + 20
    stamp.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :], encoding="utf-8")
    with pytest.raises(ValueError, match="bundle_sha256"):
        predict_images(job)
    stamp.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="must be JSON"):
        predict_images(job)


def test_files_of_other_origin_are_not_taken_for_predictions(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes((photos / "a.png").read_bytes())
    job = Job(tiny_bundle, (str(photos),), tmp_path / "out", execution=ONE_BY_ONE)
    with pytest.raises(ValueError, match=r"got .*out with a\.png; .*--overwrite"):
        predict_images(job)
    assert not (tmp_path / "out" / STAMP).exists()


def test_a_folder_is_written_by_one_process_at_a_time(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / LOCK),
        pytest.raises(ValueError, match="which another one predicts into"),
    ):
        predict_images(Job(tiny_bundle, (str(photos),), out, execution=ONE_BY_ONE))
