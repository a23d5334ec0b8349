"""Runs that are finished as far as their verdict, made without Ray from recipes and a function that trains them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.result import HoldoutOpening
from analysis.voting.labelled_logits import LabelledLogits
from search.engine.study_file import STUDY_NAME, open_storage
from search.observers.event_log import EventLog
from search.observers.trial_row import TrialRow
from search.run_dir import RunDir, write_json
from search.space.space import load_space
from search.stages import run_data
from search.stages.ensemble import forms_of
from trainables.data.cache import Cache
from trainables.data.index import Split
from trainables.data.splits.folds import Folds, deal_folds, write_folds
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.store import LogitStore
from trainables.logits.view import View
from trainables.logits.write_logits import Candidate, write_logits
from trainables.models.segmentor import build_segmentor
from trainables.models.weights_file import BEST_JSON, BEST_WEIGHTS, REFIT_WEIGHTS, fold_weights, save_weights
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import about_best

TINY_SPACE = """
model: {backbone: {choice: [test_convnext, test_resnet]}, pretrained: false, head: {name: segformer, channels: 16}}
augmentation: {crop_px: 32, cutmix: {p: 0.5}}
optimizer: {lr: 0.01, warmup_epochs: 0}
train: {batch_size: 4, num_workers: 0, ema_decay: 0.9}
search: {max_epochs: 2, grace_epochs: 1, num_trials: 3}
ensemble: {resamples: 100, sample_mb: 1, folds: 2, max_sweeps: 2, postprocess: off, stacking: off}
"""
SEARCHED = {  # besides the backbones of the trials
    "optimizer/lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
}
AT = "2026-05-01T12:00:00+00:00"
Train = Callable[[Recipe, Cache, Split, Path], float]  # writes best.safetensors and best.json; -> val mIoU


def make_finished_run(run: RunDir, card: Path, space: str, recipes: Sequence[Recipe], train: Train) -> None:
    """Write `run` with one trial per recipe; its decoded images lie in cache/ beside it."""
    run.root.mkdir(parents=True)
    (run.root / "given.yaml").write_text(space, encoding="utf-8")
    loaded = load_space(str(run.root / "given.yaml"), profile=None, overrides=())
    index, cache = run_data.read_data(card, run.root.parent / "cache", lambda _: None)
    split = run_data.split_data(index, cache, loaded.options, lambda _: None)
    data = run_data.Data(index, split, cache, run.root.parent)
    run.space_yaml.write_text(loaded.to_yaml(), encoding="utf-8")
    write_json(run.data_json, run_data.describe_data(data, card))
    record: dict[str, Any] = {"asked": {"space": "given.yaml", "data": str(card), "assignments": [], "profile": None}}
    record |= {"command": ["segsearch"], "card": str(card), "data_fingerprint": index.fingerprint, "versions": {}}
    record |= {"space": "given", "profile": None, "seed": 0, "split_fingerprint": split.fingerprint}
    write_json(run.run_json, record | {"started": AT, "stages": {"ensemble": AT}})
    trials = search_without_ray(run, recipes, cache, split, train)
    num_folds = loaded.options.folds.num
    if num_folds:
        folds = deal_folds(index, split, num_folds, seed=loaded.options.seed)
        write_folds(run.folds_json, folds)
        trials = [_train_folds(run, one, folds, cache, split, train) for one in trials]
        every = tuple(image.image_id for image in index.images if image.image_id in {*split.train_ids, *split.val_ids})
        split = replace(split, train_ids=(), val_ids=every)
    write_plain_logits(run, trials, cache, split)

    def logits(part: str, ids: tuple[str, ...]) -> LabelledLogits:
        stores = [LogitStore(run.root / "logits" / one.trial / part) for one in trials]
        return LabelledLogits.of(stores, ids, cache, index)

    form, *others = forms_of(trials)
    holdout = {one: logits("refit" if one == "refit" else "holdout", split.holdout_ids) for one in (form, *others)}
    provenance = Provenance(
        HoldoutOpening(at=AT, by="a test"),
        folds=num_folds,
        form=form,
        other_forms={other: holdout[other] for other in others},
    )
    val = logits("val", split.val_ids)
    fit_ensemble(val, holdout[form], loaded.options.ensemble, provenance, run.root, seed=loaded.options.seed)


def search_without_ray(
    run: RunDir, recipes: Sequence[Recipe], cache: Cache, split: Split, train: Train
) -> list[Candidate]:
    """A trial per recipe, with its checkpoint, and the study that holds them."""
    trials = []
    for number, recipe in enumerate(recipes):
        folder = run.tune / f"{number:05d}"
        trials.append(Candidate(folder.name, recipe, folder, train(recipe, cache, split, folder)))
    _write_study(run, trials)
    return trials


def write_plain_logits(run: RunDir, trials: Sequence[Candidate], cache: Cache, split: Split) -> None:
    """Every candidate's logits in its plain view."""
    for one in trials:
        write_logits(
            one, cache, split, [View()], {part: run.logits(one.trial, part) for part in one.parts}, device="cpu"
        )


def write_card_with_unlabelled(root: Path) -> Path:
    """The card of 24 labelled images, and of four of another drawing without labels."""
    path = write_synthetic(root / "data", num_images=24, image_px=64, seed=0)
    other = write_synthetic(root / "other", num_images=18, image_px=64, seed=7)
    (path.parent / "extra").mkdir()
    for number, picture in enumerate(sorted(other.parent.glob("batch_*/*.jpg"))[:4]):
        shutil.copy(picture, path.parent / "extra" / f"{number}.jpg")
    path.write_text(path.read_text(encoding="utf-8") + "unlabelled: {images: extra}\n", encoding="utf-8")
    return path


def tiny_recipe(backbone: str, seed: int) -> Recipe:
    """A recipe of TINY_SPACE."""
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "pretrained": False},
        "head": {"name": "segformer", "channels": 16},
        "augmentation": {"crop_px": 32, "cutmix": {"p": 0.5}},
        "optimizer": {"lr": 0.01, "warmup_epochs": 0},
        "train": {"num_epochs": 2, "batch_size": 4, "num_workers": 0, "ema_decay": 0.9},
        "seed": seed,
    }
    return Recipe.model_validate(values)


def write_untrained(recipe: Recipe, cache: Cache, split: Split, folder: Path) -> float:
    """A checkpoint as a trial leaves it."""
    torch.manual_seed(recipe.seed)
    model = build_segmentor(recipe, cache.index.num_classes, pretrained=False).eval()
    save_weights(folder / "best.safetensors", model.state_dict())
    about = about_best(recipe, cache.index, split, miou=0.1, epoch=2)
    (folder / "best.json").write_text(json.dumps(about), encoding="utf-8")
    return 0.1


def _train_folds(run: RunDir, trial: Candidate, folds: Folds, cache: Cache, split: Split, train: Train) -> Candidate:
    """The trial's recipe once per fold, and on all of them, as the folds stage leaves them."""
    member = f"folds-{trial.trial}"
    folder = run.fold_models(member)
    for fold in (*range(folds.num), None):
        own, name = folds.split_of(fold, cache.index, split), REFIT_WEIGHTS if fold is None else fold_weights(fold)
        train(trial.recipe, cache, own, folder)
        about = json.loads((folder / BEST_JSON).read_text(encoding="utf-8"))
        about |= {"train_ids": own.train_ids, "split_fingerprint": split.fingerprint}
        (folder / name).with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
        (folder / BEST_WEIGHTS).replace(folder / name)
    names = tuple(f"{trial.trial} fold {fold}" for fold in range(folds.num))
    return Candidate(member, trial.recipe, folder, trial.miou, names, folds.folds, refit=True)


def _write_study(run: RunDir, trials: Sequence[Candidate]) -> None:
    storage = open_storage(run.study_db)
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    log = EventLog(run.events, clock=lambda: 0.0)
    backbones = sorted({one.recipe.backbone.name for one in trials} | {"test_convnext", "test_resnet"})
    searched = SEARCHED | {"model/backbone": optuna.distributions.CategoricalDistribution(backbones)}
    for position, one in enumerate(trials):
        about = json.loads((one.checkpoint / "best.json").read_text(encoding="utf-8"))
        recipe = one.recipe
        identity = {"hash": recipe.hash, "family": recipe.family, "recipe": recipe.model_dump(mode="json")}
        checkpoint = {"path": str(one.checkpoint.relative_to(run.root))}
        progress = {"best_miou": one.miou, "best_epoch": about["epoch"], "epochs": 2, "device_s": 60.0 + position}
        attrs = {"identity": identity, "checkpoint": checkpoint, "progress": progress}
        params = {"model/backbone": recipe.backbone.name, "optimizer/lr": recipe.optimizer.lr}
        curve = {1: one.miou / 2, 2: one.miou}
        study.add_trial(optuna.trial.create_trial(
            value=one.miou, user_attrs=attrs, params=params, distributions=searched, intermediate_values=curve
        ))  # fmt: skip
        for epoch, miou in curve.items():
            log.epoch(row_of(one, epoch), {"epoch": epoch, "val/miou": miou, "val/loss": 2.0 / epoch})
    storage.engine.dispose()


def row_of(one: Candidate, epochs: int) -> TrialRow:
    recipe = one.recipe
    return TrialRow(
        trial=one.trial,
        number=int(one.trial),
        state="RUNNING",
        recipe_hash=recipe.hash,
        family=recipe.family,
        backbone=recipe.backbone.name,
        head=recipe.head.name,
        epochs=epochs,
    )
