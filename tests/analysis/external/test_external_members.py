"""The ensemble stage alone: what other tools save, read back; what is wrong with it, named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header
from safetensors.numpy import save_file
from typer.testing import CliRunner

from analysis.ensemble import app
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import EnsembleResult
from analysis.external.members import RasterLabels, collect, judge_members, read_labels
from analysis.external.predictions import names_of, read_folder
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.store import LogitStore, LogitWriter

OPTIONS = EnsembleOptions(sample_mb=2, resamples=200, folds=3)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data"), num_images=24, image_px=64, seed=0)


@pytest.fixture(scope="module")
def labels(card: Path) -> RasterLabels:
    return RasterLabels(read(read_card(card)))


def logits_of(labels: RasterLabels, image_id: str, seed: int) -> np.ndarray:
    """(K,H,W) float32 that know the truth beneath noise."""
    label = labels.label(image_id)
    rng = np.random.default_rng([seed, *image_id.encode()])
    out = rng.normal(size=(labels.index.num_classes, *label.shape)).astype(np.float32)
    out += 2 * (np.arange(len(out))[:, None, None] == label)
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(0))
    shares: np.ndarray = odds / odds.sum(0)
    return shares


def stem(image_id: str) -> str:
    return str(Path(image_id).with_suffix("")).replace("/", "_")  # synthetic folders hold files of equal names


def write_member(folder: Path, labels: RasterLabels, kind: str, ids: list[str], seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    for image_id in ids:
        logits = logits_of(labels, image_id, seed)
        if kind == "npz":  # as nnU-Net: probabilities, a third axis of length 1
            np.savez_compressed(folder / f"{stem(image_id)}.npz", probabilities=softmax(logits)[:, None])
        elif kind == "npy":
            np.save(folder / f"{stem(image_id)}.npy", logits)
        else:
            save_file({"logits": logits}, folder / f"{stem(image_id)}.safetensors")
    return folder


def all_ids(labels: RasterLabels) -> list[str]:
    return [record.image_id for record in labels.index.images if record.role in ("val", "holdout")]


def test_npz_npy_and_safetensors_of_the_same_member_say_the_same(labels: RasterLabels, tmp_path: Path) -> None:
    ids = all_ids(labels)[:2]
    for kind in ("npz", "npy", "safetensors"):
        folder = write_member(tmp_path / kind, labels, kind, ids)
        found = {f.image_id: f.logits for f in read_folder(folder, labels.index.classes, names_of(ids), labels.size)}
        assert sorted(found) == sorted(ids)
        for image_id in ids:
            np.testing.assert_allclose(softmax(found[image_id]), softmax(logits_of(labels, image_id, 0)), atol=1e-5)


def test_many_images_in_one_file(labels: RasterLabels, tmp_path: Path) -> None:
    ids = all_ids(labels)[:3]
    np.save(tmp_path / "all.npy", np.stack([logits_of(labels, i, 0)[:, :60, :60] for i in ids]))
    (tmp_path / "all.txt").write_text("\n".join(stem(i) for i in ids) + "\n")
    found = {f.image_id: f.logits for f in read_folder(tmp_path, labels.index.classes, names_of(ids), labels.size)}
    assert sorted(found) == sorted(ids)


def test_classes_in_another_order_are_put_in_order_by_name(labels: RasterLabels, tmp_path: Path) -> None:
    ids, classes = all_ids(labels)[:1], list(labels.index.classes)
    logits = logits_of(labels, ids[0], 0)
    np.save(tmp_path / f"{stem(ids[0])}.npy", logits[::-1])
    (tmp_path / "classes.json").write_text(json.dumps(classes[::-1]))
    [found] = read_folder(tmp_path, classes, names_of(ids), labels.size)
    np.testing.assert_allclose(softmax(found.logits), softmax(logits), atol=1e-5)
    (tmp_path / "classes.json").write_text(json.dumps([*classes[:-1], "Unicorn"]))
    with pytest.raises(ValueError, match=f"lacks {classes[-1]} and has besides Unicorn"):
        list(read_folder(tmp_path, classes, names_of(ids), labels.size))


@pytest.mark.parametrize(("value", "rule"), [(np.nan, "NaN"), (0.0, r"must be \(\d+,h,w\)")])
def test_a_broken_array_is_named_with_its_image(labels: RasterLabels, tmp_path: Path, value: float, rule: str) -> None:
    ids, num_classes = all_ids(labels)[:1], labels.index.num_classes
    np.save(tmp_path / f"{stem(ids[0])}.npy", np.full((num_classes - (value == 0), 4, 4), value))
    with pytest.raises(ValueError, match=f"{stem(ids[0])}.npy: image '{ids[0]}' .*{rule}"):
        list(read_folder(tmp_path, labels.index.classes, names_of(ids), labels.size))


def test_a_file_that_was_cut_short_is_named(labels: RasterLabels, tmp_path: Path) -> None:
    folder = write_member(tmp_path / "A", labels, "npz", all_ids(labels)[:1])
    [path] = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
        list(read_folder(folder, labels.index.classes, names_of(all_ids(labels)), labels.size))


def test_an_image_that_one_member_lacks_is_refused_or_left_out(labels: RasterLabels, tmp_path: Path) -> None:
    ids = all_ids(labels)
    folders = [
        write_member(tmp_path / "A", labels, "npy", ids), write_member(tmp_path / "B", labels, "npy", ids[1:], 1)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=f"B lacks 1 .{ids[0]}.; .*--allow-missing"):
        collect(folders, labels, tmp_path / "out")
    said: list[str] = []
    members = collect(folders, labels, tmp_path / "out", allow_missing=True, say=said.append)
    assert any(ids[0] in line and "left out" in line for line in said)
    used = {*members.val.ids, *members.holdout.ids}
    assert ids[0] not in used
    assert used
    assert used <= set(ids)


def test_a_shard_that_was_cut_short_gives_what_is_left(labels: RasterLabels, tmp_path: Path) -> None:
    ids = all_ids(labels)
    collect([write_member(tmp_path / "A", labels, "npy", ids)], labels, tmp_path / "out")
    [path] = (tmp_path / "out/logits/A/val").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    store = LogitStore(path.parent, allow_missing=True)
    [lost] = store.lost[path]
    assert lost not in store.image_ids
    with pytest.raises(ValueError, match=f"cut short .images cut off: 1, {lost}"):
        LogitStore(path.parent)
    said: list[str] = []
    again = [path.parents[1], write_member(tmp_path / "B", labels, "npy", ids, 1)]
    members = collect(again, labels, tmp_path / "again", allow_missing=True, say=said.append)
    assert lost not in members.val.ids + members.holdout.ids
    assert any(lost in line for line in said)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_shards_with_classes_in_another_order_are_put_in_order_by_name(
    labels: RasterLabels, tmp_path: Path, dtype: Any
) -> None:
    ids, classes = all_ids(labels)[:2], labels.index.classes
    header = make_header(classes=classes[::-1], dtype=dtype)
    with LogitWriter(tmp_path, header) as writer:
        for image_id in ids:
            writer.add(image_id, logits_of(labels, image_id, 0)[::-1].astype(np.float16), labels.size(image_id))
    for found in read_folder(tmp_path, classes, names_of(ids), labels.size):
        expected = softmax(logits_of(labels, found.image_id, 0))
        np.testing.assert_allclose(softmax(found.logits), expected, atol=2e-3 if dtype == "float16" else 0.02)


def test_the_command_names_a_cut_shard_and_goes_on_where_that_is_allowed(
    card: Path, labels: RasterLabels, tmp_path: Path
) -> None:
    collect([write_member(tmp_path / "A", labels, "npy", all_ids(labels))], labels, tmp_path / "first")
    [path] = (tmp_path / "first/logits/A/holdout").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    [lost] = LogitStore(path.parent, allow_missing=True).lost[path]
    argv = ["--logits", str(path.parents[1]), "--labels", str(card), "--out", str(tmp_path / "out"), "--sample-mb", "2"]
    refused = CliRunner().invoke(app, argv)
    assert refused.exit_code == 2
    assert f"{path.name} is cut short (images cut off: 1, {lost})" in refused.stderr
    said = CliRunner().invoke(app, [*argv, "--allow-missing"]).stdout
    assert f"warning: {path} is cut short: without 1 of its images ({lost})" in said
    assert said.strip().splitlines()[-1].startswith("ship the single")


def test_three_calls_end_in_a_verdict(tmp_path: Path) -> None:
    labels = read_labels(write_synthetic(tmp_path / "data", num_images=72, image_px=64, seed=0))  # 3 and 4 groups
    folders = [write_member(tmp_path / str(s), labels, "npz", all_ids(labels), s) for s in (1, 2, 3)]
    members = collect(folders, labels, tmp_path / "out")
    result = judge_members(members, tmp_path / "out", OPTIONS, opened_at="2026-01-01T00:00:00+00:00")
    assert result.verdict.ship == "ensemble"  # three equals with noise of their own
    assert EnsembleResult.read(tmp_path / "out/ensemble.json") == result


def test_the_command_says_what_is_wrong_and_ends_with_2(card: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused = CliRunner().invoke(
        app, ["--logits", str(tmp_path / "empty"), "--labels", str(card), "--out", str(tmp_path / "out")]
    )
    assert refused.exit_code == 2
    assert "holds no .npz, .npy or .safetensors" in refused.stderr


def test_the_command_runs_as_a_script(card: Path, labels: RasterLabels, tmp_path: Path) -> None:
    folders = [str(write_member(tmp_path / str(s), labels, "npy", all_ids(labels), s)) for s in (1, 2)]
    script = Path(__file__).parents[3] / "analysis" / "ensemble.py"
    command = [sys.executable, str(script), "--logits", *folders, "--labels", str(card), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--sample-mb", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "member_class" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("ship the ")
