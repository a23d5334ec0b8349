"""A run that is finished as far as its verdict, made without Ray: three untrained networks on the synthetic set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from analysis.ensembling.fit import Provenance, fit_ensemble
from analysis.ensembling.result import HoldoutOpening
from analysis.voting.labelled_logits import LabelledLogits
from search.engine.study_file import STUDY_NAME, open_storage
from search.run_dir import RunDir, write_json
from search.space.space import load_space
from search.stages import run_data
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.store import LogitStore
from trainables.logits.view import View
from trainables.logits.write_logits import Candidate, write_logits
from trainables.models.segmentor import build_segmentor
from trainables.models.weights_file import save_weights
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import about_best

SPACE = """
model: {backbone: {choice: [test_convnext, test_resnet]}, pretrained: false, head: {name: segformer, channels: 16}}
augmentation: {crop_px: 32, cutmix: {p: 0.5}}
optimizer: {lr: 0.01}
train: {batch_size: 4, num_workers: 0, ema_decay: 0.9}
search: {max_epochs: 2, grace_epochs: 1, num_trials: 3}
ensemble: {resamples: 100, sample_mb: 1, folds: 2, max_sweeps: 2, postprocess: off, stacking: off}
"""
BACKBONES = ("test_convnext", "test_resnet", "test_resnet")


AT = "2026-05-01T12:00:00+00:00"


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 labelled images, and four of another drawing without labels."""
    root = tmp_path_factory.mktemp("students")
    path = write_synthetic(root / "data", num_images=24, image_px=64, seed=0)
    other = write_synthetic(root / "other", num_images=18, image_px=64, seed=7)
    (path.parent / "extra").mkdir()
    for number, picture in enumerate(sorted(other.parent.glob("batch_*/*.jpg"))[:4]):
        shutil.copy(picture, path.parent / "extra" / f"{number}.jpg")
    path.write_text(path.read_text(encoding="utf-8") + "unlabelled: {images: extra}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's directory; its decoded images lie in cache/ beside it."""
    run = RunDir(tmp_path_factory.mktemp("finished") / "run")
    run.root.mkdir()
    (run.root / "given.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(str(run.root / "given.yaml"), profile=None, overrides=())
    options = space.options
    index, cache = run_data.read_data(card, run.root.parent / "cache", lambda _: None)
    data = run_data.Data(index, run_data.split_data(index, cache, options, lambda _: None), cache, run.root.parent)
    run.space_yaml.write_text(space.to_yaml(), encoding="utf-8")
    write_json(run.data_json, run_data.describe_data(data, card))
    record: dict[str, Any] = {"asked": {"space": "given.yaml", "data": str(card), "assignments": [], "profile": None}}
    record |= {"command": ["segsearch"], "card": str(card), "data_fingerprint": index.fingerprint, "versions": {}}
    write_json(run.run_json, record | {"started": AT, "stages": {"ensemble": AT}})
    trials = [_trial(run, data, number) for number in range(len(BACKBONES))]
    _write_study(run, trials)
    for one in trials:
        folders = {part: run.logits(one.trial, part) for part in one.parts}
        write_logits(one, cache, data.split, [View()], folders, device="cpu")

    def logits(part: str, ids: tuple[str, ...]) -> LabelledLogits:
        stores = [LogitStore(run.root / "logits" / one.trial / part) for one in trials]
        return LabelledLogits.of(stores, ids, cache, index)

    fit_ensemble(
        logits("val", data.split.val_ids),
        logits("holdout", data.split.holdout_ids),
        options.ensemble,
        Provenance(HoldoutOpening(at=AT, by="a test")),
        run.root,
    )
    return run.root


def _trial(run: RunDir, data: run_data.Data, number: int) -> Candidate:
    """An untrained network, with a checkpoint as a trial leaves it."""
    values: dict[str, Any] = {
        "backbone": {"name": BACKBONES[number], "pretrained": False},
        "head": {"name": "segformer", "channels": 16},
        "augmentation": {"crop_px": 32, "cutmix": {"p": 0.5}},
        "optimizer": {"lr": 0.01, "warmup_epochs": 0},
        "train": {"num_epochs": 2, "batch_size": 4, "num_workers": 0, "ema_decay": 0.9},
        "seed": number,
    }
    recipe = Recipe.model_validate(values)
    torch.manual_seed(number)
    model = build_segmentor(recipe, data.index.num_classes, pretrained=False).eval()
    folder = run.tune / f"{number:05d}"
    save_weights(folder / "best.safetensors", model.state_dict())
    about = about_best(recipe, data.index, data.split, miou=0.1, epoch=2)
    (folder / "best.json").write_text(json.dumps(about), encoding="utf-8")
    return Candidate(f"{number:05d}", recipe, folder, 0.1)


def _write_study(run: RunDir, trials: list[Candidate]) -> None:
    storage = open_storage(run.study_db)
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    for one in trials:
        recipe = one.recipe
        identity = {"hash": recipe.hash, "family": recipe.family, "recipe": recipe.model_dump(mode="json")}
        checkpoint = {"path": str(one.checkpoint.relative_to(run.root))}
        attrs = {"identity": identity, "checkpoint": checkpoint, "progress": {"best_miou": 0.1, "best_epoch": 2}}
        study.add_trial(optuna.trial.create_trial(value=0.1, user_attrs=attrs))
    storage.engine.dispose()
