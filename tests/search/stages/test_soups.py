"""Which soups are made, and how they compete with trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from search.cluster.run_files import RunFiles
from search.run_dir import RunDir
from search.space.options import Options, Resources
from search.stages.candidates import choose, with_soups
from search.stages.soups import make_planned, make_soups, plan_soups
from trainables.data.index import Split
from trainables.logits.write_logits import Candidate
from trainables.models.weights_file import save_weights
from trainables.recipe.recipe import Recipe
from trainables.training.checkpoint import save_snapshot
from trainables.training.soup import Ingredient, Plan, Soup


def recipe_of(backbone: str = "convnext_atto", *, pretrained: bool = True, **backbone_values: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": backbone, "pretrained": pretrained, **backbone_values},
            "head": {"name": "segformer", "channels": 16},
        }
    )


def write_trial(
    folder: Path, trial: str, miou: float, recipe: Recipe | None = None, *, width: int = 3, epochs: Any = ()
) -> Candidate:
    """A checkpoint of epoch 2 as `fit` leaves it; `epochs` are (epoch, mIoU) of its snapshots."""
    weights = {"w": torch.zeros(width)}
    save_weights(folder / trial / "best.safetensors", weights)
    (folder / trial / "best.json").write_text(json.dumps({"miou": miou, "epoch": 2}))
    for epoch, score in epochs:
        save_snapshot(folder / trial, weights, epoch=epoch, miou=score, keep=9)
    return Candidate(trial, recipe or recipe_of(), folder / trial, miou)


def planned(trials: list[Candidate], kind: Any = "all", chosen: list[Candidate] | None = None) -> dict[str, list[str]]:
    plans = plan_soups(trials, trials if chosen is None else chosen, kind, pytest.fail)
    return {plan.name: [one.name for one in plan.ingredients] for plan in plans}


def test_a_trials_soup_begins_with_its_best_epoch_and_takes_each_epoch_once(tmp_path: Path) -> None:
    one = write_trial(tmp_path, "00003", 0.5, epochs=[(2, 0.5), (3, 0.3), (4, 0.4)])
    assert planned([one]) == {"soup-00003": ["00003 epoch 2", "00003 epoch 4", "00003 epoch 3"]}
    assert planned([write_trial(tmp_path, "00004", 0.5, epochs=[(2, 0.5)])]) == {}


def test_trials_meet_where_start_head_and_shapes_are_the_same(tmp_path: Path) -> None:
    trials = [
        write_trial(tmp_path, "00000", 0.4),
        write_trial(tmp_path, "00001", 0.5),
        write_trial(tmp_path, "00002", 0.9, width=4),
        write_trial(tmp_path, "00003", 0.9, recipe_of("convnext_femto")),
        write_trial(tmp_path, "00004", 0.9, recipe_of(weights_file="mine.pth")),
        write_trial(tmp_path, "00005", 0.3),
    ]
    wanted = {"soup-trials-00001": ["00001 epoch 2", "00000 epoch 2", "00005 epoch 2"]}
    assert planned(trials) == planned(trials, chosen=trials[5:]) == wanted
    assert planned(trials, chosen=trials[2:5]) == planned(trials, "epochs") == {}


def test_trials_from_scratch_have_nothing_in_common(tmp_path: Path) -> None:
    trials = [write_trial(tmp_path, str(n), 0.5, recipe_of(pretrained=False)) for n in range(3)]
    assert planned(trials) == {}


def test_a_trial_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    trials = [write_trial(tmp_path, f"0000{n}", 0.5, epochs=[(3, 0.4)]) for n in range(2)]
    path = tmp_path / "00001" / "snapshot-0003.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    said: list[str] = []
    plans = plan_soups(trials, trials, "epochs", said.append)
    assert [plan.name for plan in plans] == ["soup-00000"]
    assert len(said) == 1
    assert "trial 00001 is left out of soups: " in said[0]


def made(name: str, trials: list[str], miou: float) -> Soup:
    parts = tuple(Ingredient(trial=t, epoch=n, miou=0.5 - n / 100, weights=Path(t)) for n, t in enumerate(trials))
    return Soup(name=name, planned=parts, ingredients=parts, steps=(), miou=miou)


def test_a_soup_of_epochs_stands_in_for_its_trial_and_one_of_trials_competes() -> None:
    trials = [Candidate(f"0000{n}", recipe_of(), Path(str(n)), 0.5 - n / 100) for n in range(3)]
    soups = [
        made("soup-00000", ["00000", "00000"], 0.52),
        made("soup-00001", ["00001", "00001"], 0.5),  # no better
        made("soup-trials-00000", ["00000", "00002"], 0.6),
    ]
    chosen = choose(with_soups(trials, soups, Path("soups")), limit=3, max_per_family=3)
    assert [c.trial for c in chosen] == ["soup-trials-00000", "soup-00000", "00001"]
    assert chosen[0].checkpoint == Path("soups/soup-trials-00000")
    assert chosen[0].ingredients == ("00000 epoch 0", "00002 epoch 1")
    assert chosen[1].recipe == trials[0].recipe


def test_a_soup_that_fails_is_named_and_the_others_are_made(local_ray: None, tmp_path: Path) -> None:
    def make(plan: Plan, _cache: Any, _split: Any, files: RunFiles, *_: Any) -> Any:
        if plan.name == "soup-00001":
            raise ValueError("the weights were cut short")
        return f"made {files.run.soups / plan.name}"

    trials = [write_trial(tmp_path, f"0000{n}", 0.5, epochs=[(3, 0.4)]) for n in range(2)]
    said: list[str] = []
    plans = plan_soups(trials, trials, "all", said.append)
    split = Split((), (), (), fingerprint="s")
    make_planned(make, plans, None, split, RunFiles(RunDir(tmp_path)), Resources(), said.append)  # type: ignore[arg-type]
    assert "warning: soup-00001 is left out: the weights were cut short" in said
    assert f"made {tmp_path / 'soups' / 'soup-00000'}" in said
    assert len(said) == len(plans) == 3


def test_soups_are_announced_with_what_they_take(tmp_path: Path, local_ray: None) -> None:
    said: list[str] = []
    trial = write_trial(tmp_path, "00000", 0.5)
    split = Split((), (), (), fingerprint="s")
    make_soups([trial], [trial], None, split, RunFiles(RunDir(tmp_path)), Options(), said.append)  # type: ignore[arg-type]
    assert said == ["0 soups, 0 validations, at most 0 MiB of weights"]


def test_soups_can_be_off(tmp_path: Path) -> None:
    said: list[str] = []
    off = Options.model_validate({"ensemble": {"soups": "off"}})
    make_soups([], [], None, None, RunFiles(RunDir(tmp_path)), off, said.append)  # type: ignore[arg-type]
    assert said == ["soups: off"]
