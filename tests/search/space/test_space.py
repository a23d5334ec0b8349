"""A space as the tuner uses it: suggestions, defaults, tables, and the file that it writes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest

from search.space.nodes import Choice, Fixed, Group
from search.space.problems import SpaceProblems
from search.space.space import Parameter, Space, load_space, profile_names

SPACE = """
model:
  backbone: {choice: [convnext_atto, convnext_femto, convnextv2_atto, resnet18]}
  pretrained: false
  drop_path: {float: [0.0, 0.2]}
  head: {choice: {upernet: {channels: {choice: [64, 128]}}, segformer: {dropout: {float: [0.0, 0.5]}}, fpn: }}
optimizer: {lr: {log: [1e-5, 1e-3]}, clip_norm: {choice: [null, 1.0]}}
train: {batch_size: {int: [2, 8]}}
search: {num_trials: 3, max_epochs: 9, grace_epochs: 3}
seed: 5
profiles: {cpu: {model: {backbone: test_convnext}}}
"""


def space_of(folder: Path, text: str = SPACE, *, profile: str | None = None, overrides: Sequence[str] = ()) -> Space:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(str(path), profile=profile, overrides=overrides)


def test_suggest_asks_only_for_the_branch_that_is_taken(tmp_path: Path) -> None:
    space, study = space_of(tmp_path), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    heads = set()
    for _ in range(30):
        trial = study.ask()
        recipe = space.suggest(trial)
        asked = {name for name in trial.params if name.startswith("model/head/") and name != "model/head/name"}
        assert all(name.startswith(f"model/head/{recipe.head.name}/") for name in asked)
        assert (recipe.train.num_epochs, recipe.seed, recipe.backbone.pretrained) == (9, 5, False)
        assert 1e-5 <= recipe.optimizer.lr <= 1e-3
        heads.add(recipe.head.name)
    assert heads == {"upernet", "segformer", "fpn"}


def test_no_parameter_begins_another(tmp_path: Path) -> None:
    # Ray nests the names at each slash, and a value cannot be a folder as well
    names = [parameter.name for parameter in space_of(tmp_path).parameters()]
    assert not any(other.startswith(f"{name}/") for name in names for other in names)


def test_one_default_for_each_family_can_be_enqueued(tmp_path: Path) -> None:
    space, study = space_of(tmp_path), optuna.create_study()
    defaults = space.defaults()
    assert [default["model/backbone"] for default in defaults] == ["convnext_atto", "convnextv2_atto", "resnet18"]
    assert defaults[0]["model/head/upernet/channels"] == 64
    assert (defaults[0]["optimizer/lr"], defaults[0]["optimizer/clip_norm"]) == (1e-4, None)
    for default in defaults:
        study.enqueue_trial(default)
        trial = study.ask()
        space.suggest(trial)
        assert trial.params == default


def test_a_backbone_may_branch_and_overrides_what_stands_beside_it(tmp_path: Path) -> None:
    backbone = "{choice: {convnext_atto: {drop_path: 0.1}, resnet18: {}}}"
    space = space_of(
        tmp_path, SPACE.replace("{choice: [convnext_atto, convnext_femto, convnextv2_atto, resnet18]}", backbone)
    )
    atto, resnet = (space.suggest(optuna.trial.FixedTrial(default)) for default in space.defaults())  # type: ignore[arg-type]
    assert (atto.backbone.name, atto.backbone.drop_path) == ("convnext_atto", 0.1)
    assert (resnet.backbone.name, resnet.backbone.drop_path, resnet.backbone.pretrained) == ("resnet18", 0.1, False)
    assert ["model/drop_path" in default for default in space.defaults()] == [False, True]


def test_lists_are_stored_as_text_and_come_back_as_lists() -> None:
    choice = Choice((), "p", ([1, 2], [3, 4], "x", None))
    assert choice.stored == {"[1, 2]": [1, 2], "[3, 4]": [3, 4], "x": "x", None: None}


def test_the_table_of_parameters(tmp_path: Path) -> None:
    table = {parameter.name: parameter for parameter in space_of(tmp_path).parameters()}
    assert table["optimizer/lr"] == Parameter("optimizer/lr", "log", (1e-5, 1e-3))
    assert table["model/head/name"] == Parameter("model/head/name", "branch", ("upernet", "segformer", "fpn"))
    assert table["train/batch_size"] == Parameter("train/batch_size", "int", (2, 8))


def test_the_resolved_file_reads_back_as_the_same_space(tmp_path: Path) -> None:
    space = space_of(tmp_path, profile="cpu")
    assert "profile cpu" in space.to_yaml().splitlines()[0]
    again = space_of(tmp_path, space.to_yaml())
    assert (again.root, again.options, again.tree) == (space.root, space.options, space.tree)
    assert again.profiles == ()


def test_profiles_are_listed_before_a_space_is_checked(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("modle: 3\nprofiles: {cpu: {}, big: {}}", encoding="utf-8")
    assert profile_names(str(tmp_path / "broken.yaml")) == ("cpu", "big")
    assert space_of(tmp_path).profiles == ("cpu",)


def test_a_space_without_anything_searched_has_one_empty_default(tmp_path: Path) -> None:
    space = space_of(tmp_path, "model: {backbone: resnet18, head: upernet}")
    assert (space.defaults(), space.parameters()) == ([{}], [])
    assert space.suggest(optuna.trial.FixedTrial({})).head.name == "upernet"  # type: ignore[arg-type]


def test_a_space_survives_pickling(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    assert pickle.loads(pickle.dumps(space)) == space  # noqa: S301 (made here)
    assert str(pickle.loads(pickle.dumps(SpaceProblems("s", ["a: b"])))) == "space s: 1 problem\n  a: b"  # noqa: S301


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = """
model: {backbone: resnet19, head: {choice: {upernt: {}, upernet: {chanels: 3}}}}
optimizer: {lr: {log: [0, 1]}}
augmentation: {crop_px: 500}
search: {num_trials: {int: [1, 3]}, max_epoch: 3}
tta: {flips: [horizonal]}
seeds: 3
"""
    with pytest.raises(SpaceProblems) as caught:
        space_of(tmp_path, text)
    paths = {problem.split(":")[0] for problem in caught.value.problems}
    expected = {
        "model.backbone.name",
        "model.head.choice",
        "model.head.choice.upernet.chanels",
        "optimizer.lr",
        "seeds",
    }
    expected |= {"augmentation.crop_px", "search.num_trials", "search.max_epoch", "tta.flips.0"}
    assert paths == expected
    assert len(caught.value.problems) == len(expected)


def test_a_model_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SpaceProblems, match=r"model.backbone: missing(.|\n)*model.head: missing"):
        space_of(tmp_path, "seed: 1")


def test_a_head_that_cannot_take_a_backbone_is_refused_by_its_path(tmp_path: Path) -> None:
    heads = "model.head={choice: {segformer: {channels: 64}, segmenter: {num_layers: 1}}}"
    with pytest.raises(SpaceProblems, match=r"model\.head\.choice\.segmenter: head 'segmenter' needs a plain"):
        space_of(tmp_path, overrides=["model.backbone={choice: [vit_tiny_patch16_224, convnext_atto]}", heads])
    space_of(tmp_path, overrides=["model.backbone=vit_tiny_patch16_224", heads])


def test_low_rank_updates_of_a_hierarchy_are_refused_by_their_path(tmp_path: Path) -> None:
    backbone = "model.backbone={choice: [vit_small_patch16_224, convnext_atto]}"
    told = r"model\.lora_rank: must be 0 for 'convnext_atto', which is no plain vision transformer.*; use 0, or a back"
    with pytest.raises(SpaceProblems, match=told):
        space_of(tmp_path, overrides=[backbone, "model.head=segformer", "model.lora_rank={choice: [0, 8]}"])
    space_of(tmp_path, overrides=["model.backbone=vit_small_patch16_224", "model.head=segformer", "model.lora_rank=8"])


def test_queries_through_a_hierarchy_are_refused_by_the_head_s_path(tmp_path: Path) -> None:
    for name in ("convnext_atto", "beitv2_base_patch16_224"):
        with pytest.raises(SpaceProblems, match=r"model\.head: head 'eomt' needs a "):
            space_of(tmp_path, overrides=[f"model.backbone={name}", "model.head=eomt"])


def test_patches_that_fill_no_crop_are_refused_by_the_backbone_s_path(tmp_path: Path) -> None:
    backbone = "model.backbone={choice: [vit_small_patch16_224, vit_small_patch14_dinov2]}"
    told = r"model\.backbone: patches must fill some crop .*'vit_small_patch14_dinov2' with patches of 14 px and .*"
    for crops, listed in (("512", "512; use a crop_px of 448 or 672"), ("{choice: [512, 640]}", "512, 640; use")):
        with pytest.raises(SpaceProblems, match=told + listed):
            space_of(tmp_path, overrides=[backbone, f"augmentation.crop_px={crops}"])
    space_of(tmp_path, overrides=[backbone, "augmentation.crop_px={choice: [512, 448]}"])


def test_a_weights_file_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    overrides = ["model.pretrained=true", "model.weights_file=w.safetensors"]
    backbone = space_of(tmp_path, SPACE, overrides=overrides).root.children["backbone"]
    assert isinstance(backbone, Group)
    assert backbone.children["weights_file"] == Fixed(("model", "weights_file"), str(tmp_path / "w.safetensors"))
    with pytest.raises(SpaceProblems, match=r"model.weights_file: no such file, got 'v.pth'"):
        space_of(tmp_path, overrides=["model.weights_file=v.pth"])


def test_a_split_file_is_found_from_any_folder_once_the_run_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is resumed from its own space.yaml, wherever the user stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split.json").touch()
    (tmp_path / "recorded.yaml").write_text(space_of(tmp_path, overrides=["split.file=split.json"]).to_yaml())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_space(str(tmp_path / "recorded.yaml")).options.split.file == str(tmp_path / "split.json")
    with pytest.raises(SpaceProblems, match=r"split.file: no such file, got 'split.json'"):
        space_of(tmp_path, overrides=["split.file=split.json"])


def test_loading_imports_nothing_heavy() -> None:
    code = """if True:
    import sys
    from search.space.space import load_space
    load_space("convnext.yaml")
    print(sorted({"torch", "ray", "timm", "optuna", "numpy"} & set(sys.modules)))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
