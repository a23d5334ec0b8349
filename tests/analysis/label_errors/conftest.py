"""A small set with wrong labels, the logits of two models of it, and what the command makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from factories import make_header, make_store
from typer.testing import CliRunner

from analysis.cleanse import app
from trainables.data.card import read_card
from trainables.data.index import SegIndex
from trainables.data.raster import rasterise
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic

SIDE = 64
TOP = 5


@dataclass(frozen=True)
class Judged:
    card: Path
    index: SegIndex
    logits: dict[str, dict[str, np.ndarray]]  # model -> image id -> (K,H,W) float16
    folders: tuple[Path, ...]  # of the models' logits
    cache_dir: Path
    out: Path

    def again(self, out: Path, *asked: object) -> str:
        """Run the command; what it says, mistakes included."""
        given = ["--out", out, "--cache-dir", self.cache_dir, *asked]
        return CliRunner().invoke(app, [str(value) for value in given]).output


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Every fifth annotation has another class than the models, which know the true labels, have learnt."""
    root = tmp_path_factory.mktemp("judged")
    card = write_synthetic(root / "data", num_images=20, image_px=SIDE, seed=3)
    truth = {i.image_id: rasterise(i, 255, background=True) for i in read(read_card(card)).images if i.role == "train"}
    content = json.loads((root / "data" / "train.json").read_text(encoding="utf-8"))
    for entry in content["annotations"][::5]:
        entry["category_id"] = entry["category_id"] % 10 + 1
    (root / "data" / "train.json").write_text(json.dumps(content), encoding="utf-8")
    index, rng = read(read_card(card)), np.random.default_rng(0)
    logits: dict[str, dict[str, np.ndarray]] = {}
    for trial, skill in (("a", 6.0), ("b", 3.0)):
        known = {name: np.arange(index.num_classes)[:, None, None] == label for name, label in truth.items()}
        logits[trial] = {
            name: (skill * hot + rng.normal(size=hot.shape)).astype(np.float16) for name, hot in known.items()
        }
        header = make_header(trial, classes=index.classes, data_fingerprint=index.fingerprint)
        make_store(root / "runs" / trial / "logits" / "0" / "val", header, logits[trial], (SIDE, SIDE))
        (root / "runs" / trial / "run.json").write_text(json.dumps({"card": str(card)}), encoding="utf-8")
        (root / "runs" / trial / "data.json").write_text(json.dumps({"train": []}), encoding="utf-8")
    folders = tuple(root / "runs" / trial / "logits" / "0" / "val" for trial in logits)
    found = Judged(card, index, logits, folders, root / "cache", root / "out")
    said = found.again(found.out, "--run", root / "runs", "--top", TOP)
    assert "written: " in said, said
    return found
