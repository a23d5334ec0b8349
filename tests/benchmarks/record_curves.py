"""Trains every recipe of a small grid and records its learning curve, for replays of what really happened.

    python tests/benchmarks/record_curves.py DATA_CARD OUT_DIR [--folds 5]

Each recipe of the grid over `replay/wbc.yaml` is trained from scratch twice, under different seeds: on the card's own
train images (`fixed`), and on all folds but one of the images outside the hold-out (`rotated`), the fold dealt by the
recipe's place in a seeded order. Written are OUT_DIR/curves.json (val mIoU per epoch, and that of the best epoch's
weights on the hold-out; `replay/wbc.json` is one) and, of the fixed ones, probabilities (K,P) at some pixels of every
val and hold-out image for `bench_recorded.py`. Recipes that OUT_DIR has are not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from replay.recorded import LEARNING_RATES, SPACE, Recorded, Training, key_of

from search.space.space import load_space
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.splits.folds import deal_folds
from trainables.data.splits.make_split import decode_facts, make_split
from trainables.files import write_text
from trainables.logits.predict_views import Inference, at_label_size, view_batches
from trainables.logits.view import View
from trainables.metrics import confusion, miou
from trainables.models.load import load_model
from trainables.models.weights_file import BEST_WEIGHTS
from trainables.recipe.recipe import Recipe
from trainables.training.attempt import EpochReport
from trainables.training.checkpoint import drop_older_epochs
from trainables.training.fit import Trial, fit

PIXELS_PER_IMAGE = 256
BACKBONES, CLASS_WEIGHTS = ("test_efficientnet", "test_convnext", "test_resnet"), ("none", "inverse_sqrt")


def grid() -> list[Recipe]:
    """All recipes of the space at the recorded learning rates, in a seeded order."""
    space, study = load_space(str(SPACE)), optuna.create_study()
    found = []
    for backbone, lr, weights in itertools.product(BACKBONES, LEARNING_RATES, CLASS_WEIGHTS):
        study.enqueue_trial({"model/backbone": backbone, "optimizer/lr": lr, "loss/class_weights": weights})
        found.append(space.suggest(study.ask()))
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


def train(recipe: Recipe, cache: Cache, split: Split, fold: int | None) -> tuple[Training, dict[str, NDArray[Any]]]:
    """What is recorded of one training, and its probabilities and truth at the sampled pixels."""
    curve: list[float] = []

    def report(done: EpochReport) -> None:
        curve.append(round(done.metrics["val/miou"], 5))
        drop_older_epochs(done.checkpoint_dir)

    with tempfile.TemporaryDirectory() as folder:
        fit(Trial(recipe, cache, split, Path(folder), "cpu"), report)
        model = load_model(recipe, cache.index.num_classes, Path(folder) / BEST_WEIGHTS)
    inference = Inference.of(recipe, model, "cpu", 8)
    sampled, scores = {}, {}
    for part, ids in (("val", split.val_ids), ("holdout", split.holdout_ids)):
        counts, q, truth = predict(inference, cache, ids)
        scores[part] = round(float(miou(counts.sum(0))), 5)
        sampled |= {f"{part}_q": q, f"{part}_truth": truth, f"{part}_counts": counts}
    return Training(curve=tuple(curve), holdout=scores["holdout"], fold=fold), sampled


@torch.no_grad()
def predict(
    inference: Inference, cache: Cache, ids: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float16], NDArray[np.uint8]]:
    """Confusion matrices (N,K,K), and probabilities (K,P) and truth (P,) at pixels that depend on an image's place."""
    counts, probabilities, truths = [], [], []
    for batch_ids, logits in view_batches(inference, cache, ids, View()):
        for image_id, one in zip(batch_ids, logits, strict=True):
            true = np.array(cache.label(image_id))
            q = at_label_size(one[None].float(), true.shape)[0].softmax(0).numpy()
            counts.append(confusion(true, q.argmax(0).astype(np.uint8), cache.index.num_classes))
            chosen = np.random.default_rng(len(counts)).choice(true.size, PIXELS_PER_IMAGE, replace=False)
            probabilities.append(q.reshape(len(q), -1)[:, chosen].astype(np.float16))
            truths.append(true.reshape(-1)[chosen])
    return np.stack(counts), np.concatenate(probabilities, axis=1), np.concatenate(truths)


def record(card: Path, out: Path, num_folds: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "curves.json"
    recorded = Recorded.read(path) if path.exists() else Recorded(fixed={}, rotated={})
    index = read(read_card(card))
    cache = Cache.open(index, out / "cache")
    split = make_split(index, seed=0)
    folds = deal_folds(index, split, num_folds, seed=0, known=decode_facts(index, cache))
    for place, recipe in enumerate(grid()):
        key, fold = key_of(recipe.model_dump(mode="json")), place % num_folds
        for way, trainings in (("fixed", recorded.fixed), ("rotated", recorded.rotated)):
            if key in trainings:
                continue
            seeded = recipe.model_copy(update={"seed": place + (1000 if way == "rotated" else 0)})
            seen = split if way == "fixed" else folds.split_of(fold, index, split)
            trainings[key], sampled = train(seeded, cache, seen, None if way == "fixed" else fold)
            np.savez(out / f"{way}-{place}.npz", key=np.array(key), **sampled)  # type: ignore[arg-type]
            write_text(path, recorded.model_dump_json(indent=1) + "\n")
            print(way, key, trainings[key], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("card", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    record(given.card, given.out, given.folds)


if __name__ == "__main__":
    main()
