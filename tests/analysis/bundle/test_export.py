from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from factories import with_shipped
from safetensors import safe_open

from analysis.bundle.export import BundleFacts, _licences, export
from analysis.bundle.manifest import BundleError, read_bundle
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

FACTS = BundleFacts("trash", "data", "split", licences=("CC BY 4.0",))


def test_only_members_with_a_weight_ship(tiny_run: Any, tmp_path: Path) -> None:
    folder = export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle")
    manifest = read_bundle(folder).manifest
    assert [member.trial for member in manifest.members] == ["0000", "0002"]
    shipped = tiny_run.ensemble.rules[-1]
    assert manifest.weights == (shipped.weights[0], shipped.weights[2])
    assert manifest.fitted == shipped.fitted.of_used()
    assert manifest.members[1].views == ("s1.50-none",)
    assert manifest.members[0].short_px == 64
    assert manifest.licences == ("images of trash: CC BY 4.0",)
    assert manifest.scores.holdout.miou == 0.5


def test_a_bundle_is_safetensors_and_json_and_what_others_read_it_with(tiny_run: Any, tmp_path: Path) -> None:
    folder = export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle")
    names = sorted(path.name for path in folder.iterdir())
    weights = ["member-0.safetensors", "member-1.safetensors"]
    assert names == ["README.md", "bundle.json", "load.py", *weights, "network.py", "postprocess.py"]
    for name in weights:
        with safe_open(folder / name, framework="np") as file:
            assert len(list(file.keys())) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_member_of_several_networks_ships_all_of_them(tiny_run: Any, tmp_path: Path) -> None:
    [best] = tiny_run.weights["0002"]
    paths = [tmp_path / "folds" / f"fold-{fold}.safetensors" for fold in range(3)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(best, path)
        shutil.copyfile(best.with_suffix(".json"), path.with_suffix(".json"))
    folder = export(FACTS, tiny_run.ensemble, {**tiny_run.weights, "0002": paths}, tmp_path / "bundle")
    alone, several = read_bundle(folder).manifest.members
    names = [f"member-1-{path.name}" for path in paths]
    assert [file.weights for file in several.files] == names
    assert "more_weights" not in alone.model_dump()  # so that older versions read it
    (folder / names[2]).write_bytes(b"x")
    with pytest.raises(BundleError, match=r"member-1-fold-2\.safetensors must have \d+ bytes, got 1"):
        read_bundle(folder)


def test_the_single_model_ships_alone(tiny_run: Any, tmp_path: Path) -> None:
    folder = export(FACTS, with_shipped(tiny_run.ensemble, "best_single"), tiny_run.weights, tmp_path / "bundle")
    assert [member.trial for member in read_bundle(folder).manifest.members] == ["0000"]


def test_an_older_bundle_is_replaced_and_kept_where_the_new_one_fails(tiny_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(FACTS, tiny_run.ensemble, tiny_run.weights, out)
    (out / "stale").touch()
    with pytest.raises(ValueError, match="needs a checkpoint of trial 0002"):
        export(FACTS, tiny_run.ensemble, {"0000": tiny_run.weights["0000"]}, out)
    assert (out / "stale").exists()
    export(FACTS, tiny_run.ensemble, tiny_run.weights, out)
    assert not (out / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("data_fingerprint", "other", "data_fingerprint"), ("classes", ["x", "y", "z"], "classes")],
)
def test_a_checkpoint_of_another_run_is_refused(
    tiny_run: Any, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    copied = shutil.copytree(tiny_run.weights["0000"][0].parent, tmp_path / "0000")
    about = json.loads((copied / "best.json").read_text(encoding="utf-8"))
    (copied / "best.json").write_text(json.dumps({**about, key: value}), encoding="utf-8")
    weights = copied / "best.safetensors"
    with pytest.raises(ValueError, match=f"must have the ensemble's {message}"):
        export(FACTS, tiny_run.ensemble, {**tiny_run.weights, "0000": [weights]}, tmp_path / "bundle")


@pytest.mark.parametrize("num_bytes", [100, 5000])
def test_weights_cut_short_are_refused_by_name(tiny_run: Any, tmp_path: Path, num_bytes: int) -> None:
    copied = shutil.copytree(tiny_run.weights["0000"][0].parent, tmp_path / "0000")
    weights = copied / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"best.safetensors .*cut short"):
        export(FACTS, tiny_run.ensemble, {**tiny_run.weights, "0000": [weights]}, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_weights_of_another_network_are_refused(tiny_run: Any, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_run.weights["0000"][0].parent, tmp_path / "0000")
    weights = copied / "best.safetensors"
    shutil.copy(tiny_run.weights["0001"][0], weights)
    with pytest.raises(ValueError, match="must hold the weights of test_convnext"):
        export(FACTS, tiny_run.ensemble, {**tiny_run.weights, "0000": [weights]}, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("name", "licence"), [("mit_b0", "not for commercial use"), ("resnet18.a1_in1k", "apache-2.0")]
)
def test_the_licence_of_pretrained_weights_is_named(name: str, licence: str) -> None:
    recipe = Recipe(backbone=Backbone(name=name), head=SegFormerHead())
    assert licence in _licences(FACTS, [recipe])[1]
