"""The trainable's own part: what it hands to `fit`, and what it reports to Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem
from ray.tune import Checkpoint

from trainables import ray_trainable, worker_process
from trainables.data.index import SegIndex, Split
from trainables.recipe.recipe import Recipe

RECIPE = Recipe.model_validate({"backbone": {"name": "convnext_atto"}, "head": {"name": "segformer"}})
SPLIT = Split(("a",), ("b",), ("c",), fingerprint="s")
INDEX = SegIndex("toy", (), ("sky", "car"), fingerprint="i", grouped=False)


class FakeCheckpoint(Checkpoint):
    """Ray's, which reports show as the folder that they are of."""

    from_directory = staticmethod(lambda folder: folder)


class FakeTune:
    """Ray Tune as a trial sees it, without Ray."""

    def __init__(self, resources: dict[str, float], checkpoint: str | None = None) -> None:
        held = SimpleNamespace(required_resources=resources)
        self.context = SimpleNamespace(get_trial_resources=lambda: held, get_trial_name=lambda: "00003")
        self.context.get_storage = lambda: SimpleNamespace(storage_filesystem=LocalFileSystem())
        self.checkpoint = Checkpoint(checkpoint, LocalFileSystem()) if checkpoint else None
        self.reports: list[tuple[dict[str, Any], list[str] | None]] = []
        self.Checkpoint = FakeCheckpoint

    def get_context(self) -> Any:
        return self.context

    def get_checkpoint(self) -> Any:
        return self.checkpoint

    def report(self, metrics: dict[str, Any], checkpoint: Path | None = None) -> None:
        files = sorted(path.name for path in checkpoint.iterdir()) if checkpoint else None
        self.reports.append((metrics, files))


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """A prepared worker keeps its number of threads; later tests of this process must not."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> FakeTune:
    fake = FakeTune({"CPU": 3.0})
    monkeypatch.setattr(ray_trainable, "tune", fake)
    monkeypatch.setattr(ray_trainable, "open_cache", lambda index, root: ("cache", index.name, root))
    for name in worker_process.worker_environment(1):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # puts the old values back afterwards
    return fake


def run_with(monkeypatch: pytest.MonkeyPatch, fit: Any, **config: Any) -> dict[str, Any]:
    """Runs `train_trial` with another `fit`; returns what that one was called with."""
    from trainables.training import fit as fit_module

    seen: dict[str, Any] = {}

    def record(trial: Any, report: Any, **kwargs: Any) -> None:
        seen.update(kwargs, trial=trial)
        fit(trial, report)

    monkeypatch.setattr(fit_module, "fit", record)
    whole = {"recipe": RECIPE.model_dump(mode="json"), "number": 3, "resume_from": None} | config
    ray_trainable.train_trial(whole, INDEX, SPLIT, Path("/cache"), snapshots=4)
    return seen


def epochs(*mious: float) -> Any:
    """A `fit` that reports these, each with a checkpoint folder of its own."""
    from trainables.training.attempt import EpochReport

    def fit(trial: Any, report: Any) -> None:
        for epoch, miou in enumerate(mious, start=1):
            folder = trial.out_dir / f"epoch-{epoch}"
            folder.mkdir()
            (folder / "state.pt").touch()
            report(EpochReport(epoch, {"val/miou": miou, "val/iou": [miou, float("nan")]}, folder))
            assert not folder.exists(), "Ray has its copy"

    return fit


def test_every_epoch_is_reported_with_its_checkpoint(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(monkeypatch, epochs(0.1, 0.2))
    assert tune.reports == [
        ({"val/miou": 0.1, "val/iou": [0.1, None], "epoch": 1}, ["state.pt"]),
        ({"val/miou": 0.2, "val/iou": [0.2, None], "epoch": 2}, ["state.pt"]),
    ]


def test_fit_gets_the_recipe_the_cache_and_the_device(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run_with(monkeypatch, epochs(0.1))
    trial = seen["trial"]
    assert (trial.recipe, trial.cache, trial.split) == (RECIPE, ("cache", "toy", Path("/cache")), SPLIT)
    assert (trial.device, trial.snapshots, seen["resume_from"]) == ("cpu", 4, None)
    tune.context.get_trial_resources().required_resources["GPU"] = 0.5
    seen = run_with(monkeypatch, epochs(0.1))
    assert (seen["trial"].device, seen["num_ranks"]) == ("cuda", 1)


def test_every_gpu_of_a_trial_gets_a_process(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    tune.context.get_trial_resources().required_resources["GPU"] = 4.0
    assert run_with(monkeypatch, epochs(0.1))["num_ranks"] == 4


def test_rays_checkpoint_goes_before_an_earlier_sessions(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(monkeypatch, epochs(), resume_from="/old")["resume_from"] == Path("/old")
    tune.checkpoint = Checkpoint("/new", LocalFileSystem())
    assert run_with(monkeypatch, epochs(), resume_from="/old")["resume_from"] == Path("/new")


def test_nan_is_reported_as_zero_and_diverged(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(monkeypatch, epochs(float("nan")))
    assert tune.reports == [({"val/miou": 0.0, "val/iou": [None, None], "epoch": 1, "diverged": True}, None)]


def test_diverged_fit_ends_the_trial_as_such(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.training.epoch import Diverged

    def fit(trial: Any, report: Any) -> None:
        epochs(0.1)(trial, report)
        raise Diverged("loss is nan at step 7")

    run_with(monkeypatch, fit)
    last, _ = tune.reports[-1]
    assert last == {"val/miou": 0.0, "epoch": 2, "diverged": True, "error": "loss is nan at step 7"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("no room"), "out of memory: no room"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory: DefaultCPU"),
        (ValueError("batch_size must not exceed 3"), "batch_size must not exceed 3"),
    ],
)
def test_what_would_only_happen_again_is_reported_not_raised(tune: FakeTune, error: Exception, reason: str) -> None:

    def trial(config: dict[str, Any]) -> None:
        raise error

    ray_trainable.report_failures(trial)({})
    assert [(line["epoch"], line["failed"][: len(reason)]) for line, _ in tune.reports] == [(0, reason)]


def test_fits_own_out_of_memory_is_recognised() -> None:
    from trainables.training.fit import OutOfMemory

    assert worker_process.is_out_of_memory(OutOfMemory("cuda holds no more"))
    assert not worker_process.is_out_of_memory(KeyError("out of memory"))


def test_other_errors_are_left_to_rays_retries(tune: FakeTune) -> None:
    def trial(config: dict[str, Any]) -> None:
        raise OSError("the node's disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        ray_trainable.report_failures(trial)({})
    assert tune.reports == []


def test_process_takes_the_trials_share_of_cpus(tune: FakeTune, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of torch too."""
    import torch

    ray_trainable.report_failures(lambda config: None)({})
    assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("3", 3)
    assert os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] == "60"
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_cache_is_opened_once_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from trainables.data.cache import Cache

    opened: list[Path] = []
    monkeypatch.setattr(Cache, "open", lambda index, root: opened.append(root) or object())
    first = ray_trainable.open_cache(INDEX, tmp_path)
    assert ray_trainable.open_cache(INDEX, tmp_path) is first
    assert opened == [tmp_path]


def test_driver_names_the_trainable_without_importing_torch() -> None:
    import subprocess
    import sys

    script = "import sys, trainables.ray_trainable; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout.lower()) is False
