"""The command: what it prints, what it refuses, and that links are followed where the user says so alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from foreign_sets import labelme_shape, rectangle, write_labelme
from mask_sets import write_images
from typer.testing import CliRunner

from analysis.convert import app
from trainables.data.card import read_card
from trainables.data.reader import read


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images with labels, of which one shows nothing of a shape, and one without."""
    root = tmp_path / "my photos"
    write_images(root, ["a.jpg", "b.jpg", "c.jpg"])
    under, over = (labelme_shape(name, rectangle(2, 2, side, side)) for name, side in (("glass", 6), ("paper", 12)))
    write_labelme(root / "a.json", "a.jpg", [under, over])
    write_labelme(root / "b.json", "b.jpg", [])
    return root


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def test_the_summary_ends_with_the_next_command(photos: Path, tmp_path: Path) -> None:
    lines = run("--from", "labelme", photos, "--out", tmp_path / "out").splitlines()
    assert lines[:2] == [
        "train: 2 images, 1 annotations",
        "left out, unlisted or without labels: 1 of 3 images (c.jpg)",
    ]
    assert "warning: train.json: shape of which nothing is seen, left out (a.jpg: shape 0 ('glass')): 1" in lines
    assert "warning: train.json: image without a label (b.jpg): 1" in lines
    assert lines[-1].endswith(f"--space convnext.yaml --data {tmp_path}/out/data.yaml")


def test_both_folders_may_move_together(photos: Path, tmp_path: Path) -> None:
    run("--from", "labelme", photos, "--out", tmp_path / "sets/out")
    (tmp_path / "moved").mkdir()
    for name in ("my photos", "sets"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert len(read(read_card(tmp_path / "moved/sets/out/data.yaml")).images) == 2


def test_what_exists_is_kept(photos: Path, tmp_path: Path) -> None:
    assert "does not exist yet" in run("--from", "labelme", photos, "--out", photos, code=2)
    assert "correct the path" in run("--from", "labelme", tmp_path / "none", "--out", tmp_path / "out", code=2)
    assert "give the file's folder" in run("--from", "labelme", photos / "a.json", "--out", tmp_path / "out", code=2)
    assert "annotations.xml" in run("--from", "cvat", photos, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_links_lead_out_only_where_the_user_says_so(photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").rename(tmp_path / "elsewhere.jpg")
    (photos / "a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert "--follow-links" in run("--from", "labelme", photos, "--out", tmp_path / "out", code=2)
    run("--from", "labelme", photos, "--out", tmp_path / "out", "--follow-links")
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text())["follow_links"] is True
