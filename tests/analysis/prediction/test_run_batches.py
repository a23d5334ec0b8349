"""Batches of one size, in one process or several: the plan, equal results, and what happens where a process ends."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TinyRun, files_of, with_shipped
from rich.console import Console
from typer.testing import CliRunner

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.predict import app
from analysis.prediction import batches
from analysis.prediction.batches import plan_batches
from analysis.prediction.inputs import open_inputs
from analysis.prediction.job import Execution, Format, Job
from analysis.prediction.predict_images import predict_images
from analysis.prediction.progress import progress_line
from analysis.prediction.run_batches import LOCAL, Task
from analysis.prediction.writers import Labelling
from trainables.logits.view import Tile


def test_batches_have_one_size_and_do_not_hang_on_order(photos: Path, tmp_path: Path) -> None:
    (photos / "none.png").write_text("no image", encoding="utf-8")
    with open_inputs([str(photos)], tmp_path / "out") as found:
        planned, problems = plan_batches(found.images, 8)
    assert [batch.names for batch in planned] == [["a.png", "b/c.png"], ["b/d.png"]]
    assert ["none.png" in problem for problem in problems] == [True]


def test_a_batch_holds_a_bounded_number_of_pixels(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_BATCH_PX", 70 * 90 + 1)
    with open_inputs([str(photos)], tmp_path / "out") as found:
        planned, _ = plan_batches(found.images, 8)
    assert [len(batch.images) for batch in planned] == [1, 1, 1]


def test_several_processes_write_what_one_writes(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in ("a.png", "b/d.png"):
            archive.write(photos / name, name)
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:3000])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for workers in (1, 2):
        how = Execution(device="cpu", batch_size=2, workers=workers)
        inputs = (str(photos), str(tmp_path / "more.zip"))
        outcome = predict_images(Job(tiny_bundle, inputs, tmp_path / f"out{workers}", Format.rle, how))
        assert (outcome.predicted, len(outcome.unreadable)) == (5, 1)
    torch.set_num_threads(before)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2")


class Deadly:
    """Ends the process that it is sent to, as the kernel does where memory is short."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)


def test_a_process_that_is_killed_is_told_with_the_remedy(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    labelling = Labelling(bundle.manifest.classes, np.zeros((3, 3), np.uint8), background=True)
    task = Task(bundle, tmp_path, Format.png, labelling, Execution("cpu", workers=2))
    deadly: Any = [Deadly(), Deadly()]
    with pytest.raises(ValueError, match=r"one was killed .*go on with fewer --workers"):
        list(LOCAL.run(task, deadly))


def test_half_precision_without_a_gpu_is_refused(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    job = Job(tiny_bundle, (str(photos),), tmp_path / "out", execution=Execution("cpu", half=True))
    with pytest.raises(ValueError, match="--half needs a GPU, got device cpu"):
        predict_images(job)
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_compiled_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(network: object) -> object:
        def call(images: object) -> None:
            raise RuntimeError("no C++ compiler\nmore")

        return call

    monkeypatch.setattr(torch, "compile", refused)
    with pytest.raises(ValueError, match=r"--compile needs .*got: no C\+\+ compiler; leave it out"):
        Predictor(read_bundle(tiny_bundle), device="cpu", compiled=True)


def test_bands_of_rows_change_nothing(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(read_bundle(tiny_bundle), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    label, found = predictor.predict(image), predictor.probabilities(image)
    monkeypatch.setattr("analysis.bundle.predictor.BAND_BYTES", 4 * 2 * 3 * 90 * 7)  # 7 rows and fewer
    np.testing.assert_array_equal(predictor.predict(image), label)
    np.testing.assert_array_equal(predictor.probabilities(image), found)


def test_progress_is_a_line_on_a_terminal_and_nothing_elsewhere() -> None:
    texts = []
    for terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=100)
        with progress_line(10, 4, console) as advance:
            advance(3)
        texts.append(stream.getvalue())
    assert "7/10" in texts[0]
    assert "images/s" in texts[0]
    assert texts[1] == ""


def test_tiles_given_to_predict_are_those_that_a_bundle_may_name(
    tiny_run: TinyRun, tiny_bundle: Path, tmp_path: Path
) -> None:
    ensemble = with_shipped(tiny_run.ensemble, "best_single")
    tiled = tuple(
        rule.model_copy(update={"views": tuple(tuple(f"{v[:5]}-t64o50-{v[6:]}" for v in vs) for vs in rule.views)})
        for rule in ensemble.rules
    )
    named = ensemble.model_copy(update={"rules": tiled})
    facts, image = BundleFacts("trash", "data", "split"), tiny_run.images["a.png"]
    plain, of_tiles = (
        read_bundle(export(facts, each, tiny_run.weights, tmp_path / name))
        for name, each in (("plain", ensemble), ("tiled", named))
    )
    assert all("-t64o50-" in view for member in of_tiles.manifest.members for view in member.views)
    tile = Predictor(plain, device="cpu", tile=Tile(64, 0.5)).probabilities(image)
    np.testing.assert_array_equal(Predictor(of_tiles, device="cpu").probabilities(image), tile)
    whole = Predictor(plain, device="cpu").probabilities(image)
    assert np.abs(tile - whole).max() > 1e-4
    np.testing.assert_array_equal(Predictor(plain, device="cpu", tile=Tile(512)).probabilities(image), whole)
    assert "it lacks a view in tiles" in (tmp_path / "tiled" / "README.md").read_text(encoding="utf-8")


def test_tiles_are_a_setting_and_wrong_ones_are_refused(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    args = ["--bundle", tiny_bundle, "--out", tmp_path / "out", "--device", "cpu", photos]
    for given, message in (
        (["--tile", 16], "multiple of 32 px"), (["--overlap", 0.5], "--overlap goes with --tile"),
        (["--tile", 64, "--overlap", 0.5], ""), ([], "tile [64, 0.5], now None"),
    ):  # fmt: skip
        done = CliRunner().invoke(app, [str(arg) for arg in [*args, *given]])
        assert done.exit_code == (2 if message else 0)
        assert message in done.stderr
