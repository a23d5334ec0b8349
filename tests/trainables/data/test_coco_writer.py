from __future__ import annotations

import json

import numpy as np
from pycocotools.coco import COCO

from trainables.data.coco_writer import CocoWriter


def test_pycocotools_reads_back_the_masks_that_were_added() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((17, 23)) < density for density in (0.1, 0.5, 1.0)]
    writer = CocoWriter()
    for number, mask in enumerate(masks):
        writer.add_mask(writer.add_image(f"{number}.png", *mask.shape), number + 1, mask)
    coco = COCO()
    coco.dataset = json.loads(json.dumps(writer.content({1: "a", 2: "b", 3: "c"})))
    coco.createIndex()
    for annotation, mask in zip(coco.dataset["annotations"], masks, strict=True):
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    assert [category["name"] for category in coco.dataset["categories"]] == ["a", "b", "c"]


def test_a_box_encloses_the_mask() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    writer = CocoWriter()
    writer.add_mask(writer.add_image("a.png", 10, 12), 1, mask)
    assert writer.annotations[0]["bbox"] == [3, 2, 6, 3]
