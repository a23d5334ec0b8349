"""What a teacher says, from stored logits and from its bundle, and what of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_ensemble, make_header, make_member, make_store

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.distillation.teacher import (
    LEAST,
    StoredRule,
    is_written,
    predicted,
    soft_logits,
    teacher_fingerprint,
    teacher_header,
    write_soft_labels,
)
from analysis.voting.score_images import label_map
from analysis.voting.view_config import ViewConfig, VoteBatch
from trainables.logits.store import LogitStore
from trainables.training.distillation import SOFT_VIEW

CLASSES = ("a", "b", "c")


@pytest.fixture
def stores(tmp_path: Path) -> list[LogitStore]:
    rng = np.random.default_rng(0)
    return [
        make_store(
            tmp_path / name, make_header(name, classes=CLASSES), {"x.png": 3 * rng.normal(size=(3, 5, 6))}, (20, 24)
        )
        for name in ("m0", "m1", "m2")
    ]


@pytest.mark.parametrize("rule", ["member_class", "geometric_mean", "hard_vote", "best_single"])
def test_stored_logits_give_the_labels_that_the_rule_votes_for(
    stores: list[LogitStore], tmp_path: Path, rule: str
) -> None:
    fitted = make_ensemble(CLASSES, [make_member(name) for name in ("m0", "m1", "m2")]).rule(rule).fitted.of_used()
    used = make_ensemble(CLASSES, [make_member(name) for name in ("m0", "m1", "m2")]).rule(rule).fitted.used
    stored = StoredRule.of(fitted, [stores[m] for m in used], tmp_path)
    shares = stored.probabilities("x.png")
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    batch = VoteBatch(ViewConfig(fitted.views, fitted.temperatures), (stored.vote,))
    agree = label_map(stored.stores, batch, "x.png") == shares.argmax(0)
    assert agree.all() or rule == "hard_vote"  # a tie of votes is the best member's
    assert agree.mean() > 0.6


def test_a_bundle_and_its_members_stored_logits_say_the_same(tmp_path: Path) -> None:
    from factories import make_tiny_run

    from trainables.logits.predict_views import Inference, view_logits
    from trainables.logits.view import View
    from trainables.models.load import load_model

    run = make_tiny_run(tmp_path / "run")
    rule = run.ensemble.shipped
    bundle = export(BundleFacts("d", "data", "split"), run.ensemble, run.weights, tmp_path / "bundle")
    images: Any = _Images(run.images)
    stores = []
    for m in rule.fitted.used:
        trial = run.ensemble.members[m].trial
        recipe = read_bundle(bundle).manifest.members[len(stores)].recipe
        model = load_model(recipe, 3, run.weights[trial][0])
        for view in rule.views[m]:
            found = view_logits(Inference.of(recipe, model, "cpu", 1), images, list(run.images), View.parse(view))
            header = make_header(trial, classes=run.ensemble.classes, view=view, stride=model.stride)
            make_store(tmp_path / trial, header, dict(found), images.size)
        stores.append(LogitStore(tmp_path / trial))
    stored = StoredRule.of(rule.fitted.of_used(), stores, tmp_path)
    for name, shares in predicted(Predictor(read_bundle(bundle), device="cpu"), images, list(run.images)):
        np.testing.assert_allclose(stored.probabilities(name), shares, atol=2e-3)


class _Images:
    def __init__(self, images: Any) -> None:
        self.images = images

    def image(self, name: str) -> Any:
        return self.images[name]

    def size(self, name: str) -> Any:
        return self.images[name].shape[:2]


def test_a_cell_keeps_the_mean_probability_and_no_class_is_impossible() -> None:
    shares = np.zeros((3, 6, 8), np.float32)
    shares[0], shares[1, :4, :4], shares[0, :4, :4] = 1, 0.25, 0.75
    found = soft_logits(shares)
    assert found.shape == (3, 2, 2)
    np.testing.assert_allclose(np.exp(found[:, 0, 0]), [0.75, 0.25, LEAST], rtol=1e-3)
    np.testing.assert_allclose(np.exp(found[:, 1, 1]), [1, LEAST, LEAST], rtol=1e-3)


def test_what_is_written_says_who_taught_and_a_cut_shard_is_written_again(tmp_path: Path) -> None:
    shares = np.random.default_rng(0).dirichlet([0.3] * 3, (16, 12)).transpose(2, 0, 1).astype(np.float32)
    header = teacher_header(CLASSES, "data", "split", "who")
    assert not is_written(tmp_path, header, ["x"])
    write_soft_labels(tmp_path, header, [("x", shares)])
    assert is_written(tmp_path, header, ["x"])
    assert not is_written(tmp_path, header, ["x", "y"])
    assert not is_written(tmp_path, teacher_header(CLASSES, "data", "split", "another"), ["x"])
    kept = LogitStore(tmp_path).logits(SOFT_VIEW, "x")
    means = soft_logits(shares)
    np.testing.assert_allclose(kept, means - means.max(0), atol=0.1)  # in 8 bits, less each pixel's maximum
    [shard] = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not is_written(tmp_path, header, ["x"])


def test_a_teacher_is_another_one_with_other_weights_or_images() -> None:
    fitted = make_ensemble(CLASSES, [make_member("m0"), make_member("m1")]).shipped.fitted
    prints = {
        teacher_fingerprint(fitted, weights, "data", ids)
        for weights, ids in [(["w"], [["a"], []]), (["v"], [["a"], []]), (["w"], [[], ["a"]])]
    }
    assert len(prints) == 3
