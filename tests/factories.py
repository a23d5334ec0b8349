"""Makes what many tests need and none is about: logit headers and stores, ensemble results, data cards, fitting
samples, rows of trials, a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.ensembling.result import (
    FORMAT,
    Confusion,
    EnsembleResult,
    Gain,
    HoldoutOpening,
    ImageScore,
    MemberResult,
    ParetoPoint,
    PostprocessResult,
    RuleResult,
    Score,
    Verdict,
)
from trainables.logits.shard_format import LogitHeader
from trainables.logits.store import LogitStore, LogitWriter

if TYPE_CHECKING:
    from analysis.ensembling.pixel_sampling import FittingSample
    from analysis.voting.executor import Executor
    from analysis.voting.labelled_logits import LabelledLogits
    from analysis.voting.votes import Vote
    from search.observers.progress import TimeLeft
    from search.observers.trial_row import TrialRow

TINY_CLASSES = ["Background", "Paper", "Glass"]
PLAIN_VIEW = "s1.00-none"
VOTES: Mapping[str, Literal["hard", "geometric"]] = {"hard_vote": "hard", "geometric_mean": "geometric"}


def make_header(trial: str = "t", *, classes: Sequence[str], **changes: Any) -> LogitHeader:
    """The header of a shard: of val, in the plain view, of one checkpoint per trial."""
    values: dict[str, Any] = {
        "recipe_hash": trial,
        "family": "f",
        "split": "val",
        "view": PLAIN_VIEW,
        "stride": 1,
        "data_fingerprint": "d",
        "split_fingerprint": "s",
        "checkpoint_fingerprint": trial,
    }
    return LogitHeader(trial=trial, classes=tuple(classes), **(values | changes))


def make_store(
    folder: Path,
    header: LogitHeader,
    logits: Mapping[str, np.ndarray],
    size_px: tuple[int, int] | Callable[[str], tuple[int, int]],
) -> LogitStore:
    """A store of images of one size, or of each its own; `logits` are (K,h,w), rounded to float16."""
    with LogitWriter(folder, header) as writer:
        for image_id, grid in logits.items():
            writer.add(image_id, grid.astype(np.float16), size_px(image_id) if callable(size_px) else size_px)
    return LogitStore(folder)


def make_sample(strengths: Sequence[Sequence[float]], *, num_images: int, per_image: int) -> FittingSample:
    """Pixels of three classes. Member m's view v, plain or flipped, knows the truth with strengths[m][v], and has noise
    of its own."""
    from analysis.ensembling.pixel_sampling import FittingSample  # compiles kernels
    from analysis.weight_search.strata import Strata

    rng, num = np.random.default_rng(0), num_images * per_image
    truth = rng.integers(0, 3, num).astype(np.uint8)
    by_view = []
    for views in strengths:
        logits = 1.5 * rng.normal(size=(len(views), 3, num))
        logits[:, truth, np.arange(num)] += np.array(views)[:, None]
        q = np.exp(logits)
        by_view.append((q / q.sum(1, keepdims=True)).astype(np.float32))
    names = tuple((PLAIN_VIEW, "s1.00-horizontal")[: len(views)] for views in strengths)
    image = np.arange(num).astype(np.int32) % num_images
    return FittingSample(names, tuple(by_view), truth, image, Strata((num // 2, num), (1, 3)))


def make_card(folder: Path, text: str = "") -> Path:
    """A data card of one empty annotation file; `text` has further keys."""
    (folder / "train.json").touch()
    path = folder / "data.yaml"
    path.write_text(f"train: train.json\n{text}", encoding="utf-8")
    return path


def make_gain(gain: float = 0.01, low: float | None = -0.005, high: float | None = 0.02) -> Gain:
    return Gain(gain=gain, low=low, high=high, p_positive=0.9)


def make_score(miou: float, num_classes: int) -> Score:
    """Every class has the same IoU."""
    iou, low, high = ((miou + shift,) * num_classes for shift in (0.0, -0.05, 0.05))
    return Score(miou=miou, low=miou - 0.02, high=miou + 0.02, iou=iou, iou_low=low, iou_high=high)


def make_member(trial: str = "0000", **changes: Any) -> MemberResult:
    values: dict[str, Any] = {"recipe_hash": "1e5555555555", "family": "convnext", "views": (PLAIN_VIEW,)}
    values |= {"val_miou": 0.5, "costs": {PLAIN_VIEW: 1.0}}
    return MemberResult(trial=trial, **(values | changes))


def make_rule(name: str, weights: np.ndarray, members: Sequence[MemberResult]) -> RuleResult:
    """A rule that uses every member through all its views; weights (M,K)."""
    scores = (make_score(miou, weights.shape[1]) for miou in (0.6, 0.55, 0.5))
    val_fitted, val_crossfit, holdout = scores
    return RuleResult(
        name=name,
        vote=VOTES.get(name, "soft"),
        weights=tuple(map(tuple, weights.tolist())),
        views=tuple(member.views for member in members),
        cost=float(np.count_nonzero(weights.any(axis=1))),
        temperatures=tuple(1.0 + 0.5 * m for m in range(len(members))),
        val_fitted=val_fitted,
        val_crossfit=val_crossfit,
        holdout=holdout,
        gain_crossfit=make_gain(),
        gain_over_rival_crossfit=make_gain(),
        gain_holdout=make_gain(),
        gain_over_rival_holdout=make_gain(),
    )


def make_ensemble(
    classes: Sequence[str], members: Sequence[MemberResult], shipped: str = "member_class"
) -> EnsembleResult:
    """Four rules over `members`, of which the last gives the second no weight."""
    shape = len(members), len(classes)
    single, rich = np.zeros(shape), np.random.default_rng(1).uniform(0.2, 2, shape).astype(np.float32)
    single[0], rich[1:2] = 1, 0
    weights = {"best_single": single, "hard_vote": np.ones(shape), "geometric_mean": np.ones(shape)}
    weights["member_class"] = rich
    return EnsembleResult(
        format=FORMAT,
        classes=tuple(classes),
        background=True,
        num_val=2,
        num_holdout=3,
        unit="image",
        caveats=("three images only",),
        members=tuple(members),
        rules=tuple(make_rule(name, rows, members) for name, rows in weights.items()),
        postprocess=PostprocessResult(rule="member_class", kept=False, reason="it does not pay", steps=None, gain=None),
        cost_unit="views",
        latency_budget_ms=None,
        pareto=tuple(make_point([member.trial for member in members[: n + 1]]) for n in range(len(members))),
        verdict=make_verdict(shipped),
        holdout_opened=(HoldoutOpening(at="2026-05-01T12:03:44+00:00", by="verdict"),),
        confusion=Confusion(
            split="holdout", rule=shipped, counts=tuple(map(tuple, np.eye(shape[1], dtype=int).tolist()))
        ),
        images=tuple(ImageScore(image_id=f"{n}.jpg", miou_single=0.5, miou_shipped=0.9 - 0.1 * n) for n in range(3)),
    )


def make_point(trials: Sequence[str]) -> ParetoPoint:
    """A point of the front: each of the trials through its plain view."""
    num = len(trials)
    scores = {"miou_fitted": 0.59 + 0.01 * num, "miou_crossfit": 0.49 + 0.01 * num}
    return ParetoPoint(ms=float(num), members=tuple(trials), views=((PLAIN_VIEW,),) * num, front=True, **scores)


def make_verdict(rule: str) -> Verdict:
    ship: Literal["single", "ensemble"] = "single" if rule == "best_single" else "ensemble"
    return Verdict(rule=rule, ship=ship, sentence="Ship it.", gain=make_gain(), num_images=3)


def with_shipped(ensemble: EnsembleResult, rule: str) -> EnsembleResult:
    """The same result with another rule in its verdict."""
    return ensemble.model_copy(update={"verdict": make_verdict(rule)})


def with_stacked(ensemble: EnsembleResult, folder: Path) -> tuple[EnsembleResult, Vote]:
    """The same result with one more rule: a random stacker, in a file in `folder`, of all members but the second."""
    from analysis.ensembling.stacker_file import write_stackers
    from analysis.voting.stacker import Stacker
    from analysis.voting.votes import Vote  # compiles kernels

    num_members, num_classes = len(ensemble.members), len(ensemble.classes)
    rng, num_inputs = np.random.default_rng(3), (num_members - 1) * num_classes
    shapes = [(8, num_inputs), (8,), (num_classes, 8), (num_classes,)]
    layers = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
    weights = np.repeat(rng.uniform(0.5, 2, (1, num_classes)), num_members, 0).astype(np.float32)
    weights[1] = 0
    vote = Vote("stacked", weights, Stacker(layers, np.ones(num_classes, bool), 0.5))
    file = write_stackers(folder, {"stacked": vote})["stacked"]
    rule = make_rule("soft_vote", weights, ensemble.members)
    rule = rule.model_copy(update={"name": "stacked", "vote": "stacked", "stacker": file})
    return ensemble.model_copy(update={"rules": (*ensemble.rules, rule)}), vote


def as_json(ensemble: EnsembleResult) -> dict[str, Any]:
    """What the file would hold, to be changed and validated again."""
    values: dict[str, Any] = json.loads(json.dumps(ensemble.model_dump()))
    return values


def make_row(number: int = 0, state: str = "RUNNING", **changes: Any) -> TrialRow:
    from search.observers.trial_row import TrialRow  # a search's requirements, which the GPU suite does without

    values: dict[str, Any] = {"recipe_hash": f"abc{number}", "family": "convnext", "backbone": "convnext_atto"}
    values |= {"head": "segformer", "recipe": {"optimizer": {"lr": 1e-3}}}
    return TrialRow(trial=f"{number:05d}", number=number, state=state, **(values | changes))


def make_time_left(after_s: float | None = None) -> TimeLeft:
    """Of trials of about 3 epochs, 9 at most; the stages after the search take `after_s`."""
    from search.observers.progress import TimeLeft
    from search.observers.search_forecast import Lengths, SearchForecast

    return TimeLeft(SearchForecast(Lengths(expected=3.0, most=9)), lambda rows: after_s)


@dataclass(frozen=True)
class TinyRun:
    weights: dict[str, tuple[Path, ...]]  # one file per network
    ensemble: EnsembleResult
    images: dict[str, NDArray[np.uint8]]


def make_tiny_run(
    folder: Path, trials: Sequence[str] = ("0000", "0001", "0002"), classes: Sequence[str] = TINY_CLASSES
) -> TinyRun:
    """Three members of two recipes, their checkpoints under `folder`, and three images: the second candidate has no
    weight in the shipped rule."""
    import torch

    from trainables.models.segmentor import build_segmentor
    from trainables.models.weights_file import save_weights
    from trainables.recipe.augmentation import Augmentation
    from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

    members, weights = [], {}
    for n, (name, views) in enumerate(
        [
            ("test_convnext", ["s1.00-none", "s1.00-horizontal"]),
            ("test_resnet", ["s1.00-none"]),
            ("test_resnet", ["s1.50-none"]),
        ]
    ):
        recipe = Recipe(
            backbone=Backbone(name=name, pretrained=False),
            head=SegFormerHead(channels=16),
            augmentation=Augmentation(crop_px=32, short_px=64 if n == 0 else None),
            seed=n,
        )
        torch.manual_seed(n)
        model = build_segmentor(recipe, len(classes), pretrained=False).eval()
        trial = trials[n]
        weights[trial] = (folder / trial / "best.safetensors",)
        save_weights(folder / trial / "best.safetensors", model.state_dict())
        about = {
            "recipe": recipe.model_dump(mode="json"),
            "classes": list(classes),
            "miou": 0.5,
            "epoch": 1,
            "data_fingerprint": "data",
            "split_fingerprint": "split",
        }
        (folder / trial / "best.json").write_text(json.dumps(about), encoding="utf-8")
        values = {
            "recipe_hash": recipe.hash,
            "family": recipe.family,
            "views": tuple(views),
            "val_miou": 0.5 - 0.01 * n,
        }
        members.append(make_member(trial, **values))
    rng = np.random.default_rng(0)
    sizes = {"a.png": (70, 90), "b/c.png": (70, 90), "b/d.png": (41, 64)}
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
    return TinyRun(weights, make_ensemble(classes, members), images)


def draw_sample(data: LabelledLogits, sample_bytes: int, seed: int, executor: Executor) -> FittingSample:
    """The fitting sample, drawn in a pass of its own."""
    from analysis.ensembling.pixel_sampling import gather, plan_sample  # compiles kernels

    plan, sizes = plan_sample(data, sample_bytes, seed, executor)
    return gather(plan, sizes, executor(plan, data.ids))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
