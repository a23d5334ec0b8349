"""Members of several models: each image of val by the model that never saw it, the hold-out by the mean of all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_header, make_store

from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.index import Split
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.latency import measure_costs, read_ms
from trainables.logits.lineage import LINEAGE, FoldModel, Lineage, write_lineage
from trainables.logits.predict_views import Inference, view_logits
from trainables.logits.store import LogitStore
from trainables.logits.view import View
from trainables.logits.write_logits import Candidate, Storage, write_logits
from trainables.models.load import load_model, load_network
from trainables.models.probability_mean import ProbabilityMean
from trainables.models.segmentor import Segmentor, build_segmentor
from trainables.models.weights_file import save_weights
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

PLAIN = View().name
VIEWS = [View(), View(1.0, "horizontal")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two fold models of three images each, and the member's logits."""
    root = tmp_path_factory.mktemp("folds")
    index = read(read_card(write_synthetic(root / "data", num_images=18, image_px=64, seed=0)))
    cache, ids = Cache.open(index, root / "cache"), tuple(image.image_id for image in index.images)
    recipe = Recipe(backbone=Backbone(name="test_resnet", pretrained=False), head=SegFormerHead(channels=16))
    folds = ids[:3], ids[3:6]
    for fold in range(2):
        torch.manual_seed(fold)
        save_weights(root / f"fold-{fold}.safetensors", build_segmentor(recipe, index.num_classes).state_dict())
        (root / f"fold-{fold}.json").write_text(json.dumps({"train_ids": folds[1 - fold]}))
    one = Candidate("folds-00000", recipe, root, 0.5, folds=folds)
    split = Split((), ids[:6], ids[6:9], "split")
    folders = {"val": root / "val", "holdout": root / "holdout"}
    write_logits(one, cache, split, VIEWS, folders, device="cpu")
    return SimpleNamespace(one=one, cache=cache, split=split, folders=folders)


def predicted(made: Any, fold: int, ids: Any) -> dict[str, np.ndarray]:
    model = load_model(made.one.recipe, made.cache.index.num_classes, made.one.weights[fold])
    return dict(view_logits(Inference.of(made.one.recipe, model, "cpu", 8), made.cache, ids, View()))


def test_each_image_is_predicted_by_the_model_that_never_saw_it(made: Any) -> None:
    store = LogitStore(made.folders["val"])
    assert store.has(PLAIN, made.split.val_ids)
    for fold, ids in enumerate(made.one.folds):
        for image_id, logits in predicted(made, fold, ids).items():
            np.testing.assert_array_equal(store.logits(PLAIN, image_id), logits)


def test_the_hold_out_is_the_log_of_the_mean_probability_at_the_heads_grid(made: Any) -> None:
    store = LogitStore(made.folders["holdout"])
    of_models = [predicted(made, fold, made.split.holdout_ids) for fold in range(2)]
    for image_id in made.split.holdout_ids:
        grids = [torch.from_numpy(found[image_id]).double() for found in of_models]
        mean = torch.stack([grid.softmax(0) for grid in grids]).mean(0)
        stored = torch.from_numpy(np.array(store.logits(PLAIN, image_id)))
        assert stored.dtype == torch.float16
        torch.testing.assert_close(stored.double(), mean.log(), atol=4e-3, rtol=2e-3)


def test_the_mean_is_finite_where_a_probability_vanishes() -> None:
    class Sure(Segmentor):
        def __init__(self, sign: float) -> None:
            torch.nn.Module.__init__(self)
            self.sign, self.stride, self.mean, self.std = sign, 1, (0.0,) * 3, (1.0,) * 3

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.stack([image[:, 0], image[:, 1]], 1) * self.sign * 1e6

    image = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    both = ProbabilityMean([Sure(1.0), Sure(-1.0)])(image)
    torch.testing.assert_close(both.softmax(1).flatten(), torch.tensor([0.5, 0.5]))
    alike = ProbabilityMean([Sure(1.0), Sure(1.0)])(image).half()
    assert alike.isfinite().all()
    assert alike.softmax(1).flatten().tolist() == [1.0, 0.0]


def test_a_second_call_writes_nothing(made: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.one.checkpoint.glob("*/*.safetensors")}
    write_logits(made.one, made.cache, made.split, VIEWS, made.folders, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_cost_is_measured_on_all_models(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = Segmentor.forward
    monkeypatch.setattr(Segmentor, "forward", lambda self, image: calls.append(1) or forward(self, image))
    ticks = iter(range(1000))
    ids = made.split.val_ids[:1]
    measure_costs(made.one, made.cache, ids, [View()], {"val": tmp_path}, device="cpu", clock=lambda: next(ticks))
    assert read_ms(tmp_path)[1] == {PLAIN: 1000.0}
    assert len(calls) == 2 * 2  # a warm-up and a measurement, each through both


def test_a_refit_predicts_the_hold_out_beside_the_mean_and_is_in_the_lineage(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_checkpoint(made.one.checkpoint, tmp_path)
    torch.manual_seed(2)
    save_weights(
        tmp_path / "refit.safetensors", build_segmentor(made.one.recipe, made.cache.index.num_classes).state_dict()
    )
    (tmp_path / "refit.json").write_text(json.dumps({"train_ids": made.split.val_ids}))
    one = replace(made.one, checkpoint=tmp_path, refit=True)
    folders = {part: tmp_path / part for part in one.parts}
    write_logits(one, made.cache, made.split, [View()], folders, device="cpu")
    refit, mean = LogitStore(folders["refit"]), LogitStore(folders["holdout"])
    model = load_model(one.recipe, made.cache.index.num_classes, one.refit_weights)
    inference = Inference.of(one.recipe, model, "cpu", 8)
    for image_id, logits in view_logits(inference, made.cache, made.split.holdout_ids, View()):
        np.testing.assert_array_equal(refit.logits(PLAIN, image_id), logits)
        before = LogitStore(made.folders["holdout"]).logits(PLAIN, image_id)
        np.testing.assert_array_equal(mean.logits(PLAIN, image_id), before)
    assert refit.header.checkpoint_fingerprint == mean.header.checkpoint_fingerprint
    ticks = iter(range(1000))
    loaded = []
    monkeypatch.setattr(
        "trainables.logits.latency.load_network", lambda *args: loaded.append(args[2]) or load_network(*args)
    )
    for ships_refit, other in ((False, "refit"), (True, "holdout")):
        ships = replace(one, ships_refit=ships_refit)
        for part in one.parts:
            (folders[part] / "cost.json").unlink(missing_ok=True)
        measure_costs(ships, made.cache, made.split.val_ids, [View()], folders, device="cpu", clock=lambda: next(ticks))
        assert [part for part in one.parts if read_ms(folders[part])[1]] == (
            ["val", other] if other == "refit" else ["val", "holdout"]
        )
        assert list(loaded[-2]) == list(ships.shipped_weights)
    leak = tmp_path / "refit.json"
    leak.write_text(json.dumps({"train_ids": [*made.split.val_ids, made.split.holdout_ids[0]]}))
    with pytest.raises(ValueError, match="model 2"):
        write_logits(one, made.cache, made.split, [View()], {p: tmp_path / "new" / p for p in one.parts}, device="cpu")


def copy_checkpoint(source: Path, target: Path) -> None:
    for path in source.glob("fold-*"):
        shutil.copyfile(path, target / path.name)


def test_a_model_that_was_trained_on_what_it_shall_predict_is_refused(made: Any, tmp_path: Path) -> None:
    for path in made.one.weights:
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name).with_suffix(".json").write_bytes(path.with_suffix(".json").read_bytes())
    leaked, sealed = made.one.folds[0][0], made.split.holdout_ids[0]
    one = replace(made.one, checkpoint=tmp_path)
    folders = {"val": tmp_path / "val", "holdout": tmp_path / "holdout"}
    for fold, extra in ((0, leaked), (1, sealed)):
        about = tmp_path / f"fold-{fold}.json"
        whole = about.read_text()
        about.write_text(json.dumps({"train_ids": [*json.loads(whole)["train_ids"], extra]}))
        with pytest.raises(ValueError, match=rf"got 1 that do not \('{extra}' by model {fold}\).*folds stage"):
            write_logits(one, made.cache, made.split, VIEWS, folders, device="cpu")
        about.write_text(whole)
    (tmp_path / "fold-1.json").unlink()
    with pytest.raises(ValueError, match=r"fold-1\.json must say what fold-1\.safetensors was trained on"):
        write_logits(one, made.cache, made.split, VIEWS, folders, device="cpu")
    assert not folders["val"].exists()


@pytest.mark.parametrize("part", ["val", "holdout"])
def test_a_leak_planted_in_the_lineage_is_refused_by_every_reader(made: Any, part: Any) -> None:
    folder = made.folders[part]
    whole = (folder / LINEAGE).read_bytes()
    lineage = Lineage.model_validate_json(whole)
    image_id = (made.one.folds[0] if part == "val" else made.split.holdout_ids)[0]
    first, *others = lineage.models
    leak = first.model_copy(update={"train_ids": (*first.train_ids, image_id)})
    planted = Lineage(models=(leak, *others))
    try:
        with pytest.raises(ValueError, match=rf"{part} must be of images .* \('{image_id}' by model 0\); delete"):
            planted.check(part, LogitStore(folder).image_ids, folder)
        write_lineage(folder, planted)
        with pytest.raises(ValueError, match=r"must have the fingerprint .* it was changed"):
            LogitStore(folder)
        (folder / LINEAGE).unlink()
        with pytest.raises(ValueError, match="need their lineage, got no "):
            LogitStore(folder)
    finally:
        (folder / LINEAGE).write_bytes(whole)
    assert LogitStore(folder).has(PLAIN, [image_id])


def test_a_store_whose_header_vouches_for_a_leak_is_refused(made: Any, tmp_path: Path) -> None:
    leak = Lineage(models=(FoldModel(weights="w", train_ids=("a", "b"), predicts=("a",)),))
    write_lineage(tmp_path, leak)
    header = make_header("folds-0", classes=["x", "y"], lineage=leak.fingerprint)
    with pytest.raises(ValueError, match=r"not trained on, got 1 that do not \('a' by model 0\)"):
        make_store(tmp_path, header, {"a": np.zeros((2, 1, 1))}, (1, 1))
    unnamed = make_header("folds-0", classes=["x", "y"], lineage=leak.fingerprint)
    with pytest.raises(ValueError, match=r"every logit of val must name its model, got 1 that do not \(c\)"):
        make_store(tmp_path, unnamed, {"c": np.zeros((2, 1, 1))}, (1, 1))


def test_8_bits_of_a_member_of_folds(made: Any, tmp_path: Path) -> None:
    folders = {"val": tmp_path / "val", "holdout": tmp_path / "holdout"}
    said = write_logits(made.one, made.cache, made.split, VIEWS, folders, Storage("uint8", 1.0), device="cpu")
    assert len(said) == len(VIEWS)
    assert LogitStore(folders["val"]).has(PLAIN, made.split.val_ids)
