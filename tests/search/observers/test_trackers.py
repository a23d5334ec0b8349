"""MLflow, TensorBoard and W&B for real: what a search tells them, read back; what they missed, told again."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Clock, TinyRun, make_row, make_tiny_run
from numpy.typing import NDArray
from PIL import Image

from search.observers.event_log import EventLog
from search.observers.mlflow_tracker import MlflowTracker
from search.observers.search_info import Outcome, SearchInfo, plain_names, scalars
from search.observers.tensorboard_tracker import TensorboardTracker, records, scalars_in
from search.observers.trackers import NEEDS, build_trackers, check_trackers
from search.observers.trial_row import Observer, TrialRow
from search.observers.wandb_tracker import WandbTracker
from search.run_dir import RunDir

CLASSES = ("sky", "car (all)")
RULES = [{"rule": "best_single", "mIoU": 0.5}, {"rule": "soft", "mIoU": 0.625}]
EPOCHS = 3


def metrics(number: int, epoch: int) -> dict[str, Any]:
    values = {"epoch": epoch, "val/miou": 0.125 * epoch + 0.25 * number, "val/loss": 1.0 / epoch, "train/loss": 2.0}
    return values | {"lr": 0.001, "images_per_s": 8.0, "val/iou": [0.5, float("nan")], "pid": 7, "note": "x"}


@dataclass
class Trials:
    """Two trials: one completes, one fails after its second epoch."""

    rows: dict[int, TrialRow]

    @classmethod
    def make(cls) -> Trials:
        return cls({n: make_row(n, params={"model/backbone": "convnext_atto", "optimizer/lr": 1e-3}) for n in (0, 1)})

    def tell(self, observers: list[Observer], *, until: int = EPOCHS, ends: bool = True) -> None:
        for observer in observers:
            observer.begin({}, 2)
            for number, row in self.rows.items():
                observer.trial_started(replace(row, epochs=0))
                for epoch in range(1, min(until, EPOCHS - number) + 1):
                    observer.epoch(replace(row, epochs=epoch), metrics(number, epoch))
                if ends:
                    observer.trial_ended(self.ended()[number])
            observer.end()

    def ended(self) -> dict[int, TrialRow]:
        best = {"best_miou": 0.375, "best_epoch": 3, "epochs": 3}
        return {
            0: replace(self.rows[0], state="COMPLETE", **best),
            1: replace(self.rows[1], state="FAIL", error="no room\nMemoryError: 9 GiB"),
        }


@pytest.fixture
def info(tmp_path: Path) -> SearchInfo:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}", encoding="utf-8")
    (tmp_path / "bundle" / "00000.safetensors").write_bytes(b"weights")
    (tmp_path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    (tmp_path / "space.yaml").write_text("seed: 3\n", encoding="utf-8")
    (tmp_path / "samples").mkdir()
    Image.fromarray(np.indices((24, 80)).sum(0).astype(np.uint8)).convert("RGB").save(
        tmp_path / "samples" / "worst-1.jpg"
    )
    return SearchInfo(RunDir(tmp_path), CLASSES)


def outcome_in(info: SearchInfo) -> Outcome:
    samples = {info.run.samples / "worst-1.jpg": "Worst 1: a.png, mIoU 0.250"}
    return Outcome("Ship the soft vote.", RULES, info.run.bundle, info.run.report, samples)


def sample_of(info: SearchInfo) -> NDArray[np.uint8]:
    return np.asarray(Image.open(info.run.samples / "worst-1.jpg"))


def told_outcome(tracker: Observer, info: SearchInfo) -> None:
    """As a run that is finished tells it."""
    tracker.begin({}, 2)
    tracker.finished(outcome_in(info))
    tracker.end()


def log_of(info: SearchInfo) -> EventLog:
    return EventLog(info.run.events, clock=Clock())


def test_scalars_name_classes_and_leave_out_what_is_no_number() -> None:
    found = scalars(metrics(0, 1), plain_names(CLASSES))
    assert found.pop("val/iou/sky") == 0.5
    assert sorted(found) == ["epoch", "images_per_s", "lr", "train/loss", "val/loss", "val/miou"]


def test_plain_names_stay_different() -> None:
    assert plain_names(["a(b)", "a[b]", "..", "ü-1"]) == ["a_b_", "a_b__1", "class", "ü-1"]


def test_a_tracker_that_is_not_installed_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "mlflow", ("no_such_module", "mlflow-skinny"))
    with pytest.raises(ValueError, match=r"(?s)mlflow needs .*pip install mlflow-skinny.*got wanb; did you mean wandb"):
        check_trackers(["mlflow", "wanb"])


def test_a_tracker_named_twice_is_made_once(info: SearchInfo) -> None:
    assert len(build_trackers(["tensorboard", "jsonl", "tensorboard"], info)) == 1


def tensorboard_of(info: SearchInfo, trial: str) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, tag, value in scalars_in(info.run.tensorboard / trial):
        found.setdefault(tag, []).append((step, value))
    return found


def test_tensorboard_has_every_epoch_of_every_trial(info: SearchInfo) -> None:
    Trials.make().tell([TensorboardTracker(info)])
    first = tensorboard_of(info, "00000")
    assert first["val/miou"] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert first["val/iou/sky"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert first["best_miou"] == [(3, 0.375)]
    assert tensorboard_of(info, "00001")["val/miou"] == [(1, 0.375), (2, 0.5)]


def test_tensorboard_has_checksums_that_hold(info: SearchInfo) -> None:
    """The format's own masked CRC-32C, computed by tensorboardX's function for it."""
    from tensorboardX.record_writer import masked_crc32c

    Trials.make().tell([TensorboardTracker(info)])
    (path,) = (info.run.tensorboard / "00000").glob("events*")
    content, place = path.read_bytes(), 0
    while place < len(content):
        length, check = struct.unpack_from("<QI", content, place)
        data = content[place + 12 : place + 12 + length]
        assert check == masked_crc32c(content[place : place + 8])
        assert struct.unpack_from("<I", content, place + 12 + length)[0] == masked_crc32c(data)
        place += 16 + length


def test_tensorboard_has_hyper_parameters_for_parallel_coordinates(info: SearchInfo) -> None:
    Trials.make().tell([TensorboardTracker(info)])
    content = b"".join(path.read_bytes() for path in (info.run.tensorboard / "00000").glob("events*"))
    for written in (b"_hparams_/session_start_info", b"optimizer/lr", b"convnext_atto", b"best_miou"):
        assert written in content


def test_tensorboard_has_the_outcome_once(info: SearchInfo) -> None:
    for _ in range(2):
        told_outcome(TensorboardTracker(info), info)
    (path,) = (info.run.tensorboard / "search").glob("events*")
    for written in (b"Ship the soft vote.", b"| soft | 0.6250 |", b"seed: 3"):
        assert written in path.read_bytes()


def test_tensorboard_has_sample_predictions_as_images(info: SearchInfo) -> None:
    from tensorboardX.proto.event_pb2 import Event

    told_outcome(TensorboardTracker(info), info)
    (path,) = (info.run.tensorboard / "search").glob("events*")
    values = [value for data in records(path.read_bytes()) for value in Event.FromString(data).summary.value]
    [(tag, found)] = [(value.tag, value.image) for value in values if value.WhichOneof("value") == "image"]
    assert (tag, found.height, found.width) == ("samples/worst-1", 24, 80)
    np.testing.assert_array_equal(Image.open(io.BytesIO(found.encoded_image_string)), sample_of(info))
    assert b"Worst 1: a.png, mIoU 0.250" in path.read_bytes()


def test_tensorboard_reads_a_file_that_a_kill_cut_short(info: SearchInfo) -> None:
    Trials.make().tell([TensorboardTracker(info)])
    (path,) = (info.run.tensorboard / "00000").glob("events*")
    whole = list(scalars_in(path.parent))
    path.write_bytes(path.read_bytes()[:-5])
    assert list(scalars_in(path.parent)) == whole[:-1]


def test_tensorboard_is_told_what_it_missed_once(info: SearchInfo) -> None:
    trials = Trials.make()
    trials.tell([TensorboardTracker(info)], until=1, ends=False)  # it fails after the first epochs
    trials.tell([log_of(info)])
    for _ in range(2):
        tracker = TensorboardTracker(info)
        tracker.begin(trials.ended(), 2)
        tracker.end()
    assert tensorboard_of(info, "00000")["val/miou"] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert [step for step, _ in tensorboard_of(info, "00001")["val/miou"]] == [1, 2]


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a run's file: a header of 7 bytes, then LevelDB's log format, in blocks of 32 KiB of fragments
    with 4 bytes of checksum, 2 of length and 1 of kind (1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, held = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        held += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


def wandb_of(info: SearchInfo, trial: str, key: str) -> list[float]:
    """A value of all epochs that W&B would be sent of a trial, in the order of its sessions."""
    import wandb

    wandb.teardown()  # its service writes the files; this waits for it
    found = []
    for path in sorted(info.run.root.glob(f"wandb/offline-run-*/*-{trial}-*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                named = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                found += [float(named[key])] if key in named else []
    return found


def test_wandb_has_every_epoch_of_every_trial(info: SearchInfo, offline_wandb: None) -> None:
    Trials.make().tell([WandbTracker(info)])
    assert wandb_of(info, "00000", "val/miou") == [0.125, 0.25, 0.375]
    assert wandb_of(info, "00000", "val/iou/sky") == [0.5, 0.5, 0.5]
    assert wandb_of(info, "00001", "val/miou") == [0.375, 0.5]


def test_wandb_is_told_what_it_missed_once(info: SearchInfo, offline_wandb: None) -> None:
    trials = Trials.make()
    trials.tell([WandbTracker(info)], until=1, ends=False)  # it fails after the first epochs
    trials.tell([log_of(info)])
    for _ in range(2):
        tracker = WandbTracker(info)
        tracker.begin(trials.ended(), 2)
        tracker.end()
    assert wandb_of(info, "00000", "val/miou") == [0.125, 0.25, 0.375]
    assert wandb_of(info, "00001", "val/miou") == [0.375, 0.5]


def test_wandb_goes_on_with_a_trial_that_was_killed(info: SearchInfo, offline_wandb: None) -> None:
    trials = Trials.make()
    trials.tell([log_of(info)], until=2, ends=False)
    tracker = WandbTracker(info)
    tracker.begin(trials.rows, 2)  # told of two epochs of each
    for epoch in (2, 3):  # the first of them ran again
        tracker.trial_started(replace(trials.rows[0], epochs=2))
        tracker.epoch(replace(trials.rows[0], epochs=epoch), metrics(0, epoch))
    tracker.trial_ended(trials.ended()[0])
    tracker.end()
    assert wandb_of(info, "00000", "val/miou") == [0.125, 0.25, 0.375]


def test_wandb_has_sample_predictions_as_images(info: SearchInfo, offline_wandb: None) -> None:
    import wandb

    told_outcome(WandbTracker(info), info)
    wandb.teardown()
    [path] = info.run.root.glob("wandb/offline-run-*/*-search.wandb")
    items = [
        item
        for record in wandb_records(path)
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
        if item.nested_key[0] == "sample predictions"
    ]
    logged = {item.nested_key[1]: json.loads(item.value_json) for item in items}
    assert (logged["_type"], logged["captions"]) == ("images/separated", ["Worst 1: a.png, mIoU 0.250"])
    [name] = logged["filenames"]
    np.testing.assert_array_equal(Image.open(path.parent / "files" / name), sample_of(info))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database as it is at first; making one takes seconds."""
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").get_experiment_by_name("segsearch")
    return folder / "mlflow.db"


@pytest.fixture
def embedded(info: SearchInfo, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> SearchInfo:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    info.run.mlflow.mkdir()
    shutil.copy(empty_store, info.run.mlflow / "mlflow.db")
    return info


def runs_at(uri: str) -> Mapping[str, Any]:
    """MLflow's runs by trial, through its own client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("segsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags["segsearch.trial"]: run for run in runs}
    assert len(found) == len(runs)
    return found


def steps_at(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, metric)
    return sorted((one.step, one.value) for one in history)


def uri_of(info: SearchInfo) -> str:
    return f"sqlite:///{info.run.mlflow / 'mlflow.db'}"


def check_trials(uri: str) -> None:
    runs = runs_at(uri)
    first, second, whole = runs["00000"], runs["00001"], runs["search"]
    assert steps_at(uri, first, "val/miou") == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert steps_at(uri, second, "val/iou/sky") == [(1, 0.5), (2, 0.5)]
    assert first.data.params == {"model/backbone": "convnext_atto", "optimizer/lr": "0.001"}
    assert {first.data.tags[key] for key in ("family", "backbone", "head", "state")} == {
        "convnext",
        "convnext_atto",
        "segformer",
        "COMPLETE",
    }
    assert second.data.tags["error"].endswith("MemoryError: 9 GiB")
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} == {whole.info.run_id}
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")


def test_mlflow_keeps_every_trial_in_the_run_directory(embedded: SearchInfo) -> None:
    said: list[str] = []
    Trials.make().tell([MlflowTracker(embedded, say=said.append)])
    check_trials(uri_of(embedded))
    assert uri_of(embedded) in said[0]


def test_mlflow_is_told_what_it_missed_once(embedded: SearchInfo) -> None:
    trials = Trials.make()
    trials.tell([MlflowTracker(embedded)], until=1, ends=False)  # it fails after the first epochs
    assert runs_at(uri_of(embedded))["00000"].info.status == "KILLED"
    trials.tell([log_of(embedded)])
    for _ in range(2):
        tracker = MlflowTracker(embedded)
        tracker.begin(trials.ended(), 2)
        tracker.end()
    check_trials(uri_of(embedded))


def test_mlflow_has_space_verdict_and_rules_and_no_second_copy_of_the_weights(embedded: SearchInfo) -> None:
    from mlflow import MlflowClient

    for _ in range(2):
        told_outcome(MlflowTracker(embedded), embedded)
    whole = runs_at(uri_of(embedded))["search"]
    client = MlflowClient(tracking_uri=uri_of(embedded))
    names = [one.path for folder in (None, "bundle") for one in client.list_artifacts(whole.info.run_id, folder)]
    assert whole.data.tags["verdict"] == "Ship the soft vote."
    assert sorted(names) == ["bundle", "bundle/MLmodel", "bundle/bundle.json", "rules.json", "samples", "space.yaml"]
    assert len(client.search_model_versions("")) == 1


def check_samples(info: SearchInfo, uri: str, folder: Path) -> None:
    """The picture that MLflow keeps, a JPEG of its own, and the tag with its caption."""
    from mlflow import MlflowClient

    client, whole = MlflowClient(tracking_uri=uri), runs_at(uri)["search"]
    assert [one.path for one in client.list_artifacts(whole.info.run_id, "samples")] == ["samples/worst-1.jpg"]
    folder.mkdir()
    kept = Image.open(client.download_artifacts(whole.info.run_id, "samples/worst-1.jpg", str(folder)))
    assert np.abs(np.asarray(kept, float) - sample_of(info)).mean() < 1
    assert whole.data.tags["samples.worst-1"] == "Worst 1: a.png, mIoU 0.250"


def test_mlflow_has_sample_predictions_as_images(embedded: SearchInfo, tmp_path: Path) -> None:
    told_outcome(MlflowTracker(embedded), embedded)
    check_samples(embedded, uri_of(embedded), tmp_path / "fetched")


@pytest.fixture
def bundled(info: SearchInfo) -> TinyRun:
    """A real bundle in the place of the run's."""
    from analysis.bundle.export import BundleFacts, export

    shutil.rmtree(info.run.bundle)
    run = make_tiny_run(info.run.root / "trials")
    export(BundleFacts("trash", "data", "split"), run.ensemble, run.weights, info.run.bundle)
    return run


def check_registered(info: SearchInfo, run: TinyRun, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registered model labels a photograph as the bundle does."""
    import mlflow.pyfunc

    from analysis.bundle import load

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(f"models:/{info.run.root.name}/1")
    photo = run.images["a.png"]
    (labels,) = model.predict([photo])
    assert np.array_equal(labels, load(info.run.bundle)(photo))


def test_mlflow_loads_the_registered_bundle_from_the_run_directory(
    embedded: SearchInfo, bundled: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_outcome(MlflowTracker(embedded), embedded)
    check_registered(embedded, bundled, uri_of(embedded), monkeypatch)


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.fixture
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server on loopback."""
    for module in ("flask", "flask_cors", "graphene"):
        pytest.importorskip(module, reason="needs the packages of mlflow's server")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    store = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    words = ["server", "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    kept = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], env={**os.environ, **kept}, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1).close()  # noqa: S310
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
                    time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_mlflow_server_gets_trials_and_bundle(
    info: SearchInfo, bundled: TinyRun, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    trials, tracker = Trials.make(), MlflowTracker(info)
    trials.tell([tracker])
    tracker.finished(outcome_in(info))
    check_trials(server)
    whole = runs_at(server)["search"]
    client = MlflowClient(tracking_uri=server)
    weights = next(info.run.bundle.rglob("*.safetensors"))
    name = weights.relative_to(info.run.root).as_posix()
    (tmp_path / "fetched").mkdir()
    fetched = client.download_artifacts(whole.info.run_id, name, str(tmp_path / "fetched"))
    assert Path(fetched).read_bytes() == weights.read_bytes()
    assert not info.run.mlflow.exists()
    check_samples(info, server, tmp_path / "samples_fetched")
    check_registered(info, bundled, server, monkeypatch)


def test_mlflow_server_that_is_gone_does_not_end_the_search(
    info: SearchInfo, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hidden-word@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    (tracker,) = build_trackers(["mlflow"], info)
    Trials.make().tell([tracker])
    said = capsys.readouterr().err
    assert said.startswith("the tracker mlflow failed and is off for the rest of this session")
    assert "hidden-word" not in said
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hidden-word"  # noqa: S105
