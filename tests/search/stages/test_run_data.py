"""What is refused of a run's data before anything is searched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.space.options import Options
from search.stages.run_data import read_data, split_data


def test_a_val_of_one_image_is_refused_with_the_key_that_makes_it_larger(tmp_path: Path) -> None:
    for n in range(4):
        noise = np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png", "height": 32, "width": 32} for n in range(4)]
    square = {"category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]]}
    content = {
        "images": images,
        "annotations": [square | {"id": n, "image_id": n} for n in range(4)],
        "categories": [{"id": 1, "name": "Paper"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "data.yaml").write_text("train: train.json\n")
    index, cache = read_data(tmp_path / "data.yaml", tmp_path / "cache", lambda _: None)
    with pytest.raises(ValueError, match=r"val must have at least 2 images.*raise split.val_share"):
        split_data(index, cache, Options(), lambda _: None)
