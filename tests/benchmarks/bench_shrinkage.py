"""Towards what a weight per member and class should shrink: fitted to a few images of a run, read on its hold-out.

    python tests/benchmarks/bench_shrinkage.py RUN [--images 25 50 100 200] [--seeds 8] [--step 2] [--cache DIR]

Of the run's logits of val (out of fold, where it has folds), in each member's plain view, random images are drawn and
all rules are fitted to every `step`-th pixel of each axis. The exact weights W are mixed with an anchor's P: as they
are after both sum to as much (`sum`, what `votes.shrunk` does), the class factors apart from the members' shares of a
class (`class`), or as logarithms (`log`). The rows `chosen` take the share by cross-fitting over five folds of images.
Told is the gain in hold-out mIoU over the best single model, the mean over seeds and its standard error.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.ensembling.result import EnsembleResult
from analysis.ensembling.rules import RULES, Sample
from analysis.voting.probabilities import probabilities
from analysis.voting.view_config import plain_view
from analysis.voting.votes import Float
from analysis.weight_search.pixels import Pixels
from search.run_dir import RunDir, read_json
from search.stages.run_data import read_data
from trainables.command import DEFAULT_CACHE
from trainables.data.cache import Cache
from trainables.logits.store import LogitStore
from trainables.metrics import miou

NEEDED = ("best_single", "best_single_class", "soft_class", "member", "member_class")
FITTED = 0.25, 0.5, 0.75  # shares of the anchor's weights
LEAST_LOG = 1 / 32  # a weight counts for no less in a logarithm
NUM_FOLDS = 5
Weights = dict[str, Float]


@dataclass(frozen=True)
class Part:
    """Probabilities (M,K,P), labels (P,) and the image of each pixel (P,)."""

    q: Float
    truth: np.ndarray
    image: np.ndarray

    def of(self, kept: np.ndarray) -> Part:
        return Part(np.ascontiguousarray(self.q[:, :, kept]), self.truth[kept], self.image[kept])

    def counts(self, weights: Float) -> np.ndarray:
        return Pixels(self.q, self.truth).confusion(weights.astype(np.float32))


def read_part(run: RunDir, cache: Cache, part: str, step: int) -> Part:
    members = [member.trial for member in EnsembleResult.read(run.ensemble_json).members]
    stores = [LogitStore(run.logits(trial, part)) for trial in members]  # type: ignore[arg-type]
    some = (..., slice(None, None, step), slice(None, None, step))
    rows, truth, image = [], [], []
    for n, image_id in enumerate(stores[0].image_ids):
        q = np.stack([probabilities(store, (plain_view(store.views),), image_id)[some] for store in stores])
        rows.append(q.reshape(*q.shape[:2], -1))
        truth.append(np.asarray(cache.label(image_id))[some].ravel())
        image.append(np.full(truth[-1].size, n))
    return Part(np.concatenate(rows, 2), np.concatenate(truth), np.concatenate(image))


def mixed_sum(w: Float, p: Float, share: float) -> Float:
    return (1 - share) * w * (p.sum() / w.sum()) + share * p


def mixed_class(w: Float, p: Float, share: float) -> Float:
    of_w, of_p = np.maximum(w.sum(0), 1e-3), np.maximum(p.sum(0), 1e-3)
    logs = [np.log(factors) - np.log(factors).mean() for factors in (of_w, of_p)]
    return np.exp((1 - share) * logs[0] + share * logs[1]) * ((1 - share) * w / of_w + share * p / of_p)


def mixed_log(w: Float, p: Float, share: float) -> Float:
    logs = [np.log(np.maximum(x, LEAST_LOG)) for x in (w, p)]
    return np.exp(sum(s * (x - x.mean()) for s, x in zip((1 - share, share), logs, strict=True)))


MIXED: Mapping[str, Callable[[Float, Float, float], Float]] = {
    "sum": mixed_sum,
    "class": mixed_class,
    "log": mixed_log,
}


def candidates(part: Part) -> Weights:
    sample = Sample(Pixels(part.q, part.truth))
    for name in NEEDED:
        RULES[name](sample)
    exact = sample.fits["member_class"].weights
    anchors = {"uniform": sample.uniform, **{name: sample.fits[name].weights for name in ("member", "soft_class")}}
    found = {"best_single": sample.alone, "best_single_class": sample.fits["best_single_class"].weights, "exact": exact}
    for anchor, plain in anchors.items():
        found[anchor] = plain
        for name, mixed in MIXED.items():
            found |= {f"{anchor} {name} {share}": mixed(exact, plain, share) for share in FITTED}
    return found


def crossfitted(part: Part, picked: np.ndarray) -> dict[str, float]:
    fold = np.full(int(part.image.max()) + 1, -1)
    fold[picked] = np.arange(len(picked)) % NUM_FOLDS
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.int64(0))  # type: ignore[assignment, return-value]
    for held in range(NUM_FOLDS):
        rest = part.of(fold[part.image] == held)
        for name, weights in candidates(part.of(fold[part.image] != held)).items():
            counts[name] = counts[name] + rest.counts(weights)
    return {name: float(miou(found)) for name, found in counts.items()}


def gains(val: Part, holdout: Part, num_images: int, seed: int) -> dict[str, float]:
    num = int(val.image.max()) + 1
    picked = np.random.default_rng([seed, num_images]).choice(num, min(num_images, num), replace=False)
    few = val.of(np.isin(val.image, picked))
    scores = {name: float(miou(holdout.counts(weights))) for name, weights in candidates(few).items()}
    found = {name: score - scores["best_single"] for name, score in scores.items()}
    crossed = crossfitted(few, picked)
    for anchor in ("uniform", "member", "soft_class"):
        for name in MIXED:
            arm = ["exact", *(f"{anchor} {name} {share}" for share in FITTED), anchor]
            found[f"chosen: {anchor} {name}"] = found[max(arm, key=lambda one: crossed[one])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--step", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    asked = parser.parse_args()
    run = RunDir(asked.run)
    _, cache = read_data(Path(read_json(run.data_json)["card"]), asked.cache, lambda line: None)
    val, holdout = (read_part(run, cache, part, asked.step) for part in ("val", "holdout"))
    table = {n: [gains(val, holdout, n, seed) for seed in range(asked.seeds)] for n in asked.images}
    print(f"{'fitted to so many images':28}" + "".join(f"{n:>18}" for n in asked.images))
    for name in table[asked.images[0]][0]:
        cells = [np.array([one[name] for one in table[n]]) for n in asked.images]
        told = [f"{cell.mean():+.4f} +- {cell.std(ddof=1) / len(cell) ** 0.5:.4f}" for cell in cells]
        print(f"{name:28}" + "".join(f"{text:>18}" for text in told))


if __name__ == "__main__":
    main()
