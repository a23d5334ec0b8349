from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from factories import make_header, with_shipped, with_stacked
from PIL import Image
from pycocotools.coco import COCO
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import FittedOn, HoldoutOpening
from analysis.postprocess.label_map import postprocess
from analysis.postprocess.options import Postprocess
from analysis.predict import app
from analysis.prediction.inputs import NO_IMAGE
from analysis.prediction.predict_images import refuse_shared_targets
from analysis.prediction.restart import LOCK, STAMP
from analysis.report.palette import palette, png_palette
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.probabilities import probabilities
from analysis.voting.score_images import label_map
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Vote, stacked_scores, vote_labels
from trainables.data.image_file import TURNED
from trainables.data.index import ImageRecord, SegIndex, Split
from trainables.logits.latency import measure_costs, read_ms
from trainables.logits.predict_views import Inference, view_logits
from trainables.logits.store import LogitStore, LogitWriter
from trainables.logits.view import Tile, View
from trainables.logits.write_logits import Candidate, write_logits
from trainables.metrics import confusion, miou
from trainables.models.load import load_model
from trainables.recipe.recipe import Recipe

SCRIPT = Path(__file__).parents[2] / "analysis" / "predict.py"
FACTS = BundleFacts("trash", "data", "split")
JUDGED = ("best_single", "hard_vote", "geometric_mean", "member_class")


@pytest.fixture(scope="module")
def bundles(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle per rule."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {}
    for name in JUDGED:
        found[name] = export(FACTS, with_shipped(tiny_run.ensemble, name), tiny_run.weights, folder / name)
    return found


class Pictures:
    """What the logits, and the ensemble, ask of a cache."""

    index: SegIndex
    label: Any

    def __init__(self, images: dict[str, Any]) -> None:
        self.image = images.__getitem__
        self.size = lambda name: images[name].shape[:2]


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def predictors(bundles: dict[str, Path]) -> dict[str, Predictor]:
    return {name: Predictor(read_bundle(folder), device="cpu", batch_size=4) for name, folder in bundles.items()}


@pytest.fixture(scope="module")
def stores(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> list[LogitStore]:
    """All members' logits through files, image by image, as the logits stage writes them."""
    root = tmp_path_factory.mktemp("logits")
    for member in tiny_run.ensemble.members:
        folder = tiny_run.weights[member.trial][0].parent
        recipe = Recipe.model_validate(json.loads((folder / "best.json").read_text(encoding="utf-8"))["recipe"])
        model = load_model(recipe, 3, folder / "best.safetensors")
        for view in member.views:
            classes = tiny_run.ensemble.classes
            header = make_header(member.trial, classes=classes, split="holdout", view=view, stride=model.stride)
            with LogitWriter(root / member.trial, header) as writer:
                inference = Inference(model, recipe.augmentation.short_px, "cpu", batch_size=1, amp="auto")
                names = list(tiny_run.images)
                for name, logits in view_logits(inference, Pictures(tiny_run.images), names, View.parse(view)):
                    writer.add(name, logits, tiny_run.images[name].shape[:2])
    return [LogitStore(root / member.trial) for member in tiny_run.ensemble.members]


@pytest.mark.parametrize("rule", JUDGED)
def test_a_bundle_predicts_what_the_logit_store_gave_to_the_verdict(
    tiny_run: Any, predictors: dict[str, Predictor], stores: list[LogitStore], rule: str
) -> None:
    chosen = tiny_run.ensemble.rule(rule)
    vote = Vote(chosen.vote, np.array(chosen.weights, dtype=np.float32))
    predicted = dict(predictors[rule].predict_many(tiny_run.images))
    for name, image in tiny_run.images.items():
        view_configs = zip(stores, chosen.views, chosen.temperatures, strict=True)
        q = np.stack([probabilities(s, v, name, temperature=t) for s, v, t in view_configs])  # (M,K,H,W)
        expected = vote_labels(q.reshape(3, 3, -1), vote).reshape(image.shape[:2])
        assert (predicted[name] == expected).mean() > 0.9995  # a batch of another size may move a logit's last bit


def test_a_rule_that_a_user_chose_is_said(tiny_run: Any, photos: Path, tmp_path: Path) -> None:
    chosen = tiny_run.ensemble.rule("best_single")
    bundle = export(FACTS, tiny_run.ensemble, tiny_run.weights, tmp_path / "bundle", chosen)
    done = run("--bundle", bundle, "--images", photos, "--out", tmp_path / "out")
    assert done.stderr.startswith(
        "note: the user ships best_single instead of member_class, the verdict's: on 3 held-out"
    )
    assert done.stdout.startswith("3 of 3 images labelled")


def test_a_stacked_bundle_predicts_what_the_logit_store_gave_to_the_verdict(
    tiny_run: Any, stores: list[LogitStore], tmp_path: Path
) -> None:
    ensemble, vote = with_stacked(tiny_run.ensemble, tmp_path)
    bundle = read_bundle(
        export(FACTS, with_shipped(ensemble, "stacked"), tiny_run.weights, tmp_path / "bundle", ensemble_dir=tmp_path)
    )
    assert [member.trial for member in bundle.manifest.members] == ["0000", "0002"]
    assert {path.name for path in bundle.folder.iterdir()} >= {"stacker.safetensors", "bundle.json"}
    predictor, rule = Predictor(bundle, device="cpu", batch_size=1), ensemble.rule("stacked")
    batch = VoteBatch(ViewConfig(rule.views, rule.temperatures), (vote,))
    for name, image in tiny_run.images.items():
        np.testing.assert_array_equal(predictor.predict(image), label_map(stores, batch, name))
        seen = zip(stores, rule.views, rule.temperatures, strict=True)
        q = np.stack([probabilities(s, v, name, temperature=t) for s, v, t in seen]).reshape(3, 3, -1)  # (M,K,P)
        scores = stacked_scores(q, vote)
        found = predictor.probabilities(image).reshape(3, -1)
        np.testing.assert_allclose(found, scores / scores.sum(0), atol=1e-4)
        assert np.ptp(found, axis=1).max() > 0.01  # the images have a say


def test_a_stacked_rule_without_its_stacker_is_not_exported(tiny_run: Any, tmp_path: Path) -> None:
    ensemble = with_shipped(with_stacked(tiny_run.ensemble, tmp_path)[0], "stacked")
    with pytest.raises(ValueError, match="exported with its stacker"):
        export(FACTS, ensemble, tiny_run.weights, tmp_path / "bundle")
    with pytest.raises(ValueError, match="got no file"):
        export(FACTS, ensemble, tiny_run.weights, tmp_path / "bundle", ensemble_dir=tmp_path / "elsewhere")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("rule", JUDGED)
def test_the_png_of_a_post_processed_rule_is_the_verdicts_label_map(
    tiny_run: Any, stores: list[LogitStore], photos: Path, tmp_path: Path, rule: str
) -> None:
    of = tiny_run.ensemble.rule(rule)
    sizes = Postprocess(min_component=(2.0**-8, 0.0, 2.0**-6), max_hole=(2.0**-8, 2.0**-7, 0.0))
    row = of.model_copy(update={"name": "postprocessed", "of": rule, "postprocess": sizes})
    ensemble = tiny_run.ensemble.model_copy(update={"rules": (*tiny_run.ensemble.rules, row)})
    bundle = export(FACTS, with_shipped(ensemble, "postprocessed"), tiny_run.weights, tmp_path / "bundle")
    assert run("--bundle", bundle, "--images", photos, "--out", tmp_path / "out", "--batch-size", 1).exit_code == 0
    vote = Vote(of.vote, np.array(of.weights, dtype=np.float32))
    batch, changed = VoteBatch(ViewConfig(of.views, of.temperatures), (vote,)), 0
    for name in tiny_run.images:
        plain = label_map(stores, batch, name)
        expected = postprocess(plain, sizes)
        with Image.open((tmp_path / "out" / name).with_suffix(".png")) as png:
            np.testing.assert_array_equal(np.array(png), expected)
        changed += int((expected != plain).sum())
    assert changed > 0


def of_folds(weights: Path, folder: Path, folds: Any) -> tuple[Path, ...]:
    """Fold models with the weights of a member, each a little changed, and what they say they were trained on."""
    about, rng = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8")), np.random.default_rng(1)
    for fold in range(len(folds)):
        others = [name for f, names in enumerate(folds) if f != fold for name in names]
        changed = {
            name: tensor + rng.normal(0, 0.1, tensor.shape).astype(np.float32) if tensor.dtype == np.float32 else tensor
            for name, tensor in load_file(weights).items()
            if "running_var" not in name
        }
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**load_file(weights), **changed}, folder / f"fold-{fold}.safetensors")
        (folder / f"fold-{fold}.json").write_text(json.dumps({**about, "train_ids": others}), encoding="utf-8")
    return tuple(folder / f"fold-{fold}.safetensors" for fold in range(len(folds)))


@pytest.mark.parametrize("num_folds", [0, 2])
def test_a_bundle_reproduces_the_scores_of_the_hold_out(tiny_run: Any, tmp_path: Path, num_folds: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"{n}.png" for n in range(10)]
    images = {name: rng.integers(0, 256, (40, 56, 3), dtype=np.uint8) for name in names}
    cache = Pictures(images)
    cache.label = {
        name: (image[..., 0] > 99).astype(np.uint8) + (image[..., 1] > 180) for name, image in images.items()
    }.get
    records = tuple(ImageRecord(name, Path(name), 40, 56, name, "train") for name in names)
    cache.index = SegIndex("tiny", records, tiny_run.ensemble.classes, "data", grouped=False)
    split = Split((), tuple(names[:5]), tuple(names[5:]), "split")
    folds = (split.val_ids[:3], split.val_ids[3:])[:num_folds]
    stores: dict[str, list[LogitStore]] = {"val": [], "holdout": []}
    weights = {}
    for trial, [path] in tiny_run.weights.items():
        recipe = Recipe.model_validate(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["recipe"])
        folders = {part: tmp_path / trial / part for part in stores}
        weights[trial] = of_folds(path, tmp_path / "folds" / trial, folds) if folds else (path,)
        candidate = Candidate(trial, recipe, weights[trial][0].parent, 0.5, folds=folds)
        views = [View(), View(1.0, "horizontal"), View(tile=Tile(64, 0.5))]
        write_logits(candidate, cache, split, views, folders, device="cpu")
        measure_costs(candidate, cache, names, views, folders, device="cpu", clock=perf_counter)
        ms = read_ms(folders["val"])[1]
        assert ms["s1.00-none"] == ms["s1.00-horizontal"] > 0
        assert ms["s1.00-t64o50-none"] not in (0, ms["s1.00-none"])
        for part, held in stores.items():
            held.append(LogitStore(folders[part]))
    options = EnsembleOptions(folds=2, resamples=100)
    val, judged = (
        LabelledLogits.of(stores[part], ids, cache, cache.index)
        for part, ids in (("val", split.val_ids), ("holdout", split.holdout_ids))
    )
    opening = HoldoutOpening(at="2026-05-01T12:00:00+00:00", by="a test")
    ensemble = fit_ensemble(val, judged, options, Provenance(opening, folds=num_folds), tmp_path)
    assert ensemble.cost_unit == "ms"
    assert ensemble.fitted_on == FittedOn(kind="out_of_fold" if folds else "val", images=5, folds=num_folds)
    for rule in map(ensemble.rule, (*JUDGED, "stacked")):
        shipped = with_shipped(ensemble, rule.name)
        bundle = read_bundle(export(FACTS, shipped, weights, tmp_path / "bundle", ensemble_dir=tmp_path))
        assert all(len(member.files) == max(1, num_folds) for member in bundle.manifest.members)
        predicted = Predictor(bundle, device="cpu").predict_many({name: images[name] for name in split.holdout_ids})
        counts = sum(confusion(cache.label(name), label, 3) for name, label in predicted)
        assert float(miou(counts)) == pytest.approx(rule.holdout.miou, abs=1e-4), rule.name
        assert bundle.manifest.scores.holdout.miou == rule.holdout.miou


def test_probabilities_sum_to_one_and_agree_with_the_labels(tiny_run: Any, predictors: dict[str, Predictor]) -> None:
    image = tiny_run.images["a.png"]
    for rule in ("member_class", "hard_vote", "geometric_mean"):
        predictor = predictors[rule]
        found, label = predictor.probabilities(image), predictor.predict(image)  # (K,H,W), (H,W)
        assert found.shape == (3, 70, 90)
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
        chosen = np.take_along_axis(found, label[None].astype(np.int64), axis=0)[0]
        assert (found.max(axis=0) - chosen).max() < 1e-6


def test_the_bundles_own_normalisation_is_used(
    tiny_run: Any, bundles: dict[str, Path], predictors: dict[str, Predictor]
) -> None:
    read = read_bundle(bundles["best_single"])
    member = read.manifest.members[0].model_copy(update={"mean": (0.0, 0.0, 0.0)})
    other = type(read)(read.folder, read.manifest.model_copy(update={"members": (member,)}))
    image = tiny_run.images["a.png"]
    theirs, ours = Predictor(other, device="cpu").probabilities(image), predictors["best_single"].probabilities(image)
    assert np.abs(theirs - ours).max() > 1e-4


def test_pngs_mirror_the_folder_and_carry_the_palette(
    tiny_run: Any, bundles: dict[str, Path], predictors: dict[str, Predictor], photos: Path, tmp_path: Path
) -> None:
    result = run("--bundle", bundles["member_class"], "--images", photos, "--out", tmp_path / "out", "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert "3 of 3 images labelled" in result.output
    predicted = predictors["member_class"].predict(tiny_run.images["b/d.png"])
    with Image.open(tmp_path / "out" / "b" / "d.png") as png:
        assert png.mode == "P"
        np.testing.assert_array_equal(np.array(png), predicted)
        assert png.getpalette()[:9] == png_palette(palette(3, background=True))[:9]
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {"a.png", "c.png", "d.png", STAMP, LOCK}


def test_the_coco_file_is_read_back_as_the_labels(
    tiny_run: Any, bundles: dict[str, Path], predictors: dict[str, Predictor], photos: Path, tmp_path: Path
) -> None:
    args = ("--bundle", bundles["member_class"], "--images", photos, "--out", tmp_path / "out")
    assert run(*args, "--format", "rle").exit_code == 0
    coco = COCO(str(tmp_path / "out" / "predictions.json"))
    predicted = predictors["member_class"].predict(tiny_run.images["b/c.png"])
    image = next(image for image in coco.imgs.values() if image["file_name"] == "b/c.png")
    label = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    for annotation in coco.imgToAnns[image["id"]]:
        mask = coco.annToMask(annotation)
        assert annotation["area"] == mask.sum()
        label[mask == 1] = annotation["category_id"]
    np.testing.assert_array_equal(label, predicted)
    assert [category["name"] for category in coco.cats.values()] == ["Paper", "Glass"]


def test_probabilities_are_written_as_float16_safetensors(
    bundles: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    args = ("--bundle", bundles["best_single"], "--images", photos, "--out", tmp_path / "out")
    assert run(*args, "--format", "probabilities").exit_code == 0
    found = load_file(tmp_path / "out" / "b" / "d.safetensors")["probabilities"]
    assert (found.dtype, found.shape) == (np.float16, (3, 41, 64))


def test_coco_files_zips_and_files_are_labelled_together(
    bundles: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "test.json").write_text(json.dumps({"images": [{"id": 0, "file_name": "b/d.png"}]}))
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(photos / "b" / "c.png", "c.png")
    inputs = (tmp_path / "test.json", tmp_path / "more.zip", photos / "a.png")
    done = run("--bundle", bundles["best_single"], "--out", tmp_path / "out", "--images", photos, *inputs)
    assert done.exit_code == 0, done.output
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {"b/d.png", "more/c.png", "a.png"}


def test_unreadable_images_are_all_told_and_the_others_finished(
    bundles: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "b" / "short.png").write_bytes(whole[: len(whole) // 2])
    (photos / "not.jpg").write_text("no image", encoding="utf-8")
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(whole)  # Latin-1, as old archives unpack
    args = ("--bundle", bundles["best_single"], "--images", photos, "--out", tmp_path / "out", "--batch-size", 1)
    result = run(*args)
    assert result.exit_code == 2
    assert "3 of 6 images labelled" in result.output
    assert "3 images could not be read" in result.output
    assert "'caf\\udce9.png': its name is no UTF-8 text" in result.output
    assert "short.png" in result.output
    assert "not.jpg" in result.output
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3


def test_all_formats_of_training_are_labelled_as_stored_and_other_files_named(
    bundles: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.open(photos / "a.png").convert("RGB")
    image.save(photos / "e.jfif", format="JPEG", exif=exif)
    image.save(photos / "f.tif", tiffinfo={274: 6})
    for name in ("g.gif", "h.avif", "i.ppm", "j.jp2"):
        image.save(photos / name)
    for name in ("clip.mp4", "._a.png"):  # macOS leaves the second beside a.png: hidden, and passed over
        (photos / name).write_bytes(b"other")
    result = run("--bundle", bundles["best_single"], "--images", photos, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "9 of 9 images labelled" in result.output
    assert f"warning: {NO_IMAGE} (clip.mp4): 1" in result.output
    assert f"warning: {TURNED} (e.jfif, f.tif): 2" in result.output
    labels = [np.array(Image.open(tmp_path / "out" / name)) for name in ("a.png", "f.png")]
    assert np.array_equal(*labels)


def test_a_run_without_ray(bundles: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from analysis.prediction.job import Job\n"
        "from analysis.prediction.predict_images import predict_images\n"
        "assert 'torch' not in sys.modules, 'heavy imports must come late'\n"
        "predict_images(Job(Path(sys.argv[1]), (sys.argv[2],), Path(sys.argv[3])))\n"
        "assert 'ray' not in sys.modules and 'optuna' not in sys.modules"
    )
    args = [bundles["best_single"], photos, tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_script_tells_a_bundle_cut_short_in_one_message(
    bundles: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in bundles["best_single"].iterdir():
        content = path.read_bytes()
        (bundle / path.name).write_bytes(content if path.suffix == ".json" else content[:1000])
    args = ["--bundle", bundle, "--images", photos, "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, SCRIPT, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "member-0.safetensors" in done.stderr
    assert "cut short" in done.stderr


def test_the_user_is_told_what_is_wrong(bundles: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    bundle = bundles["best_single"]
    inside = run("--bundle", bundle, "--images", photos, "--out", photos / "out")
    nowhere = run("--bundle", bundle, "--images", tmp_path / "no", "--out", tmp_path / "out")
    device = run("--bundle", bundle, "--images", photos, "--out", tmp_path / "out", "--device", "gpu")
    nothing = run("--bundle", bundle, "--out", tmp_path / "out")
    beside = run("--bundle", bundle, "--out", tmp_path / "out", "--images", photos, photos / "a.png")
    blocked = run("--bundle", bundle, "--images", photos, "--out", photos / "a.png" / "out")
    file = tmp_path / "file"
    file.touch()
    unwritable = run("--bundle", bundle, "--images", photos, "--out", file / "out")
    for result, message in (
        (inside, "must lie outside the images"), (nowhere, "must be a folder"), (device, "use cpu or auto"),
        (nothing, "at least one input is needed"), (beside, "--images goes with COCO files"),
        (blocked, "must lie outside the images"), (unwritable, "--out must be writable"),
    ):  # fmt: skip
        assert result.exit_code == 2
        assert message in result.output
        assert "Traceback" not in result.output


def test_two_images_of_one_name_are_refused() -> None:
    refuse_shared_targets(["x.png", "y.png", "b/x.jpg"])
    with pytest.raises(ValueError, match=r"one name: x.jpg and x.png"):
        refuse_shared_targets(["x.jpg", "x.png"])


def test_an_image_of_the_wrong_kind_is_refused(predictors: dict[str, Predictor]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H,W,3\)"):
        predictors["best_single"].predict(np.zeros((8, 8), dtype=np.uint8))
