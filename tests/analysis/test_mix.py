"""An off-line mixed set: reads back pixel for pixel, and is made of training images alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis import mix
from trainables.data.augment.offline_mix import MixSettings, mixed_images
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.image_file import read_image
from trainables.data.raster import rasterise
from trainables.data.reader import read
from trainables.data.splits.make_split import decode_facts, make_split
from trainables.data.splits.split_file import write_split
from trainables.data.synthetic.dataset import write_synthetic

KINDS = ["mosaic", "cutmix", "classmix", "copy_paste"]
SHARES = {"val_share": 0.2, "holdout_share": 0.2}
CARVED = mix.TrainPart(**SHARES)


def settings(seed: int) -> MixSettings:
    return MixSettings(seed, size_px=64, rare=1.0, scale_min=0.3, scale_max=1.5)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("mix") / "set", num_images=24, image_px=96, seed=0)


def test_what_is_written_reads_back_pixel_for_pixel(card: Path, tmp_path: Path) -> None:
    source = read(read_card(card))
    cache = Cache.open(source, tmp_path / "cache")
    train_ids = make_split(source, seed=0, **SHARES, known=decode_facts(source, cache)).train_ids
    drawn = mixed_images(cache, train_ids, KINDS, settings(0), 12)
    labels = {f"images/{mixed.stem}.jpg": (mixed.image, mixed.label) for mixed in drawn}
    mix.write_mixed(card, tmp_path / "out", KINDS, 12, settings(0), CARVED, tmp_path / "cache")
    index = read(read_card(tmp_path / "out" / "data.yaml"))
    assert index.classes == source.classes
    assert len(index.images) == 12
    for record in index.images:
        image, label = labels[record.image_id]
        assert np.array_equal(rasterise(record, index.ignore_index, background=index.background), label)
        assert np.abs(read_image(record.path).astype(int) - image).mean() < 8  # JPEG
    assert any((label == 255).any() for _, label in labels.values())


def test_sources_come_from_the_train_part_alone(card: Path, tmp_path: Path) -> None:
    mix.write_mixed(card, tmp_path / "out", KINDS, 40, settings(5), CARVED, tmp_path / "cache")
    split = make_split(read(read_card(card)), seed=5, **SHARES)
    used = {s for each in json.loads((tmp_path / "out" / "mix.json").read_text())["images"] for s in each["sources"]}
    assert used <= set(split.train_ids)
    assert len(used) > 1
    assert not used & {*split.val_ids, *split.holdout_ids}


def test_a_split_file_names_the_sources(card: Path, tmp_path: Path) -> None:
    index = read(read_card(card))
    split = make_split(index, seed=0)
    ids = [*split.train_ids, *split.val_ids]
    write_split(tmp_path / "s.json", index, split, [ids[::2], ids[1::2]], seed=0)
    for fold, allowed in ((None, split.train_ids), (0, ids[1::2]), (1, ids[::2])):
        out, part = tmp_path / f"{fold}", mix.TrainPart(0.2, 0.2, tmp_path / "s.json", fold)
        mix.write_mixed(card, out, KINDS, 12, settings(0), part, tmp_path / "cache")
        used = {s for each in json.loads((out / "mix.json").read_text())["images"] for s in each["sources"]}
        assert used <= set(allowed)


def test_the_command_writes_a_preview_and_refuses_a_folder_that_is_there(card: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(card), "--out", str(tmp_path / "m"), "--num-images", "4", "--size-px", "64"]
    done = CliRunner().invoke(mix.app, arguments)
    assert (done.exit_code, "4 mixed images" in done.output) == (0, True)
    assert read_image(tmp_path / "m" / "preview.jpg").shape == (2 * 200, 3 * 392, 3)
    again = CliRunner().invoke(mix.app, arguments)
    assert again.exit_code == 2
    assert "--out must name a folder that does not exist yet" in again.output


def test_equal_seeds_write_equal_sets(card: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        mix.write_mixed(card, tmp_path / name, ["copy_paste"], 3, settings(1), CARVED, tmp_path / "cache")
    a, b = ((tmp_path / name / "train.json").read_text() for name in ("a", "b"))
    assert a == b
