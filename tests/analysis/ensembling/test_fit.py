"""Logits to verdict, whole: on made-up members whose strengths are known."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header, make_store
from safetensors import safe_open

from analysis.ensembling.fit import fit_ensemble
from analysis.ensembling.judge_on_holdout import Provenance
from analysis.ensembling.options import EnsembleOptions
from analysis.ensembling.result import EnsembleResult, HoldoutOpening
from analysis.ensembling.rules import RULES
from analysis.ensembling.verdict import describe_form, never_predicted
from analysis.postprocess.label_map import postprocess
from analysis.postprocess.options import Postprocess
from analysis.voting.executor import LocalExecutor, silent
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.votes import Vote, vote_labels
from trainables.data.index import ImageRecord, SegIndex
from trainables.logits.store import LogitStore, LogitWriter
from trainables.metrics import miou

NUM_CLASSES, GRID, SIZE = 5, (12, 14), (24, 28)
VAL = tuple(f"val/{i:02d}.jpg" for i in range(20))
HOLDOUT = tuple(f"test/{i:02d}.jpg" for i in range(24))
CALIBRATING = EnsembleOptions(sample_mb=4, resamples=400)
OPTIONS = CALIBRATING.model_copy(update={"temperature": "off"})  # half the time


class Labels:
    """Labels (H,W) made of blocks that the grid resolves; those of the hold-out are locked until they are
    opened."""

    def __init__(self, locked: bool = False) -> None:
        self.locked = locked

    def grid(self, image_id: str) -> np.ndarray:
        rng = np.random.default_rng(sum(image_id.encode()) + 1000 * image_id.startswith("t") + 7 * int(image_id[-6:-4]))
        return rng.integers(0, NUM_CLASSES, (4, 7)).repeat(3, 0).repeat(2, 1)  # (12,14)

    def label(self, image_id: str) -> np.ndarray:
        assert not (self.locked and image_id in HOLDOUT), "a hold-out label was read before the verdict"
        label: np.ndarray = self.grid(image_id).repeat(2, 0).repeat(2, 1).astype(np.uint8)
        label[:1] = 255
        return label


def write_member(
    root: Path, trial: str, skill: np.ndarray, seed: int, views: tuple[str, ...] = ("s1.00-none",)
) -> None:
    """Logits that know class k with strength skill[k]; noise of its own a view."""
    for split, ids in (("val", VAL), ("holdout", HOLDOUT)):
        for v, view in enumerate(views):
            header = make_header(trial, classes="abcde", split=split, view=view, stride=2)
            logits = {}
            for i, image_id in enumerate(ids):
                truth = Labels().grid(image_id)
                noise = np.random.default_rng([seed, v, i, len(split)]).normal(size=(NUM_CLASSES, *GRID))
                logits[image_id] = 1.5 * noise + skill[truth] * (np.arange(NUM_CLASSES)[:, None, None] == truth)
            make_store(root / trial / split, header, logits, SIZE)


def run(root: Path, out: Path, trials: list[str], options: EnsembleOptions = OPTIONS, **more: Any) -> EnsembleResult:
    grouped = bool(more.pop("grouped", False))
    groups = more.pop("groups", {})
    records = tuple(
        ImageRecord(i, root / i, *SIZE, groups.get(i, i), "val" if i in VAL else "holdout") for i in (*VAL, *HOLDOUT)
    )
    index = SegIndex("made-up", records, tuple("abcde"), "d", grouped)
    val, holdout = ([LogitStore(root / t / split) for t in trials] for split in ("val", "holdout"))
    labels, say = more.pop("labels", Labels()), more.pop("report", silent)
    others = {
        form: LabelledLogits.of([LogitStore(other / t / "holdout") for t in trials], HOLDOUT, labels, index)
        for form, other in more.pop("others", {}).items()
    }
    judged = LabelledLogits.of(val, VAL, labels, index), LabelledLogits.of(holdout, HOLDOUT, labels, index)
    opening = HoldoutOpening(at=more.pop("opened_at", "2025-01-01T00:00:00+00:00"), by="a test")
    return fit_ensemble(
        *judged, options, Provenance(opening, other_forms=others, **more), out, executor=LocalExecutor(say=say)
    )


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("logits")
    write_member(root, "left", np.array([5.0, 5, 5, 0.5, 0.5]), seed=1)
    write_member(root, "right", np.array([0.5, 0.5, 5, 5, 4.5]), seed=2)
    write_member(root, "good", np.full(5, 3.0), seed=5)
    write_member(root, "noise", np.zeros(5), seed=3)
    write_member(root, "noise2", np.zeros(5), seed=4)
    return root


@pytest.fixture(scope="module")
def result(members: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EnsembleResult, Path]:
    out = tmp_path_factory.mktemp("run")
    return run(members, out, ["noise", "left", "right"], CALIBRATING), out


def test_two_members_that_know_different_classes_ship_as_an_ensemble(result: tuple[EnsembleResult, Path]) -> None:
    verdict = result[0].verdict
    assert verdict.ship == "ensemble"
    assert verdict.gain.low > 0
    assert verdict.sentence.startswith("ship the ensemble of ")
    assert "over the best single model on 24 images that nothing was fitted to" in verdict.sentence


def test_members_come_best_first_and_rules_from_plain_to_rich(result: tuple[EnsembleResult, Path]) -> None:
    scores = [member.val_miou for member in result[0].members]
    assert scores == sorted(scores, reverse=True)
    assert result[0].members[-1].trial == "noise"
    assert [rule.name for rule in result[0].rules] == [*RULES, "postprocessed"]  # specks of noise: it pays


def test_the_file_is_what_was_returned_and_its_scores_are_those_of_the_stored_counts(
    result: tuple[EnsembleResult, Path],
) -> None:
    answer, out = result
    assert EnsembleResult.read(out / "ensemble.json") == answer
    with safe_open(out / "confusions.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["val_ids"]) == list(VAL)
        for rule in answer.rules:
            for scoring in ("val_fitted", "val_crossfit", "holdout"):
                counts, score = file.get_tensor(f"{rule.name}/{scoring}"), getattr(rule, scoring)
                assert counts.shape[0] == (len(HOLDOUT) if scoring == "holdout" else len(VAL))
                assert score.miou == miou(counts.sum(0))
                assert score.low <= score.miou <= score.high
        shipped = file.get_tensor(f"{answer.verdict.rule}/holdout")
        for member in answer.members:
            assert member.val_miou == miou(file.get_tensor(f"{member.trial}/members").sum(0))
        single = file.get_tensor("best_single/val_fitted")
        np.testing.assert_array_equal(file.get_tensor(f"{answer.members[0].trial}/members"), single)
    np.testing.assert_array_equal(answer.confusion.counts, shipped.sum(0))
    assert [image.miou_shipped for image in answer.images] == miou(shipped).tolist()


def test_the_votes_of_the_file_reproduce_its_holdout_score(members: Path, result: tuple[EnsembleResult, Path]) -> None:
    from analysis.voting.probabilities import probabilities
    from trainables.metrics import confusion

    answer, _ = result
    stores = {t: LogitStore(members / t / "holdout") for t in ("noise", "left", "right")}
    for rule in answer.rules:
        if rule.vote != "soft":
            continue
        weights = np.array(rule.weights, np.float32)
        counts = np.zeros((5, 5), np.int64)
        steps = rule.postprocess or Postprocess(min_component=(), max_hole=())
        for image_id in HOLDOUT:
            view_configs = zip(answer.members, weights, rule.views, rule.temperatures, strict=True)
            scores = [
                row[:, None, None] * probabilities(stores[m.trial], views, image_id, temperature=t)
                for m, row, views, t in view_configs
                if row.any()
            ]  # (K,H,W) a member
            labels = np.sum(scores, 0).argmax(0).astype(np.uint8)
            counts += confusion(Labels().label(image_id), postprocess(labels, steps), 5)
        assert miou(counts) == pytest.approx(rule.holdout.miou, abs=1e-4)


def test_post_processing_is_a_row_of_its_own_that_ships_and_is_said(result: tuple[EnsembleResult, Path]) -> None:
    answer = result[0]
    by_name = {rule.name: rule for rule in answer.rules}
    row, plain = by_name["postprocessed"], by_name[answer.postprocess.rule]
    assert answer.verdict.rule == answer.confusion.rule == "postprocessed"
    assert answer.postprocess.steps == row.postprocess
    assert answer.postprocess.gain.gain == row.val_crossfit.miou - plain.val_crossfit.miou
    assert row.weights == plain.weights
    assert any("of the gain, post-processing makes" in caveat for caveat in answer.caveats)


def test_post_processing_that_is_off_leaves_the_rules_alone(
    members: Path, result: tuple[EnsembleResult, Path], tmp_path: Path
) -> None:
    answer = run(members, tmp_path, ["noise", "left", "right"], CALIBRATING.model_copy(update={"postprocess": "off"}))
    assert answer.rules == result[0].rules[:-1]
    assert answer.verdict.rule == result[0].postprocess.rule
    assert answer.postprocess.reason == "ensemble.postprocess is off"


def test_pure_noise_beside_a_good_member_ships_the_single(members: Path, tmp_path: Path) -> None:
    # not `left`: to a member that is blind to some classes, noise is a bias for these that truly gains
    verdict = run(members, tmp_path, ["good", "noise", "noise2"]).verdict
    assert verdict.ship == "single"
    assert verdict.sentence.startswith("ship the single model")


def test_one_candidate_is_a_single(members: Path, tmp_path: Path) -> None:
    answer = run(members, tmp_path, ["left"])
    assert answer.verdict.ship == "single"
    scores = {rule.name: rule.holdout.miou for rule in answer.rules}
    assert scores["best_single"] == scores["hard_vote"] == scores["soft_vote"] == scores["member"] == scores["greedy"]


def test_a_member_that_is_a_soup_names_its_ingredients(members: Path, tmp_path: Path) -> None:
    parts = ("00001 epoch 8", "00001 epoch 7")
    answer = run(members, tmp_path, ["noise", "left"], ingredients={"left": parts})
    assert [member.ingredients for member in answer.members] == [parts, None]


def test_members_in_another_form_are_judged_under_the_same_rule(members: Path, tmp_path: Path) -> None:
    """The same logits gain nothing; those of members that know every class gain, whatever order members came in."""
    for trial in ("left", "right", "noise"):
        write_member(tmp_path / "refits", trial, np.full(5, 6.0), seed=9)
    same, better = (
        run(members, tmp_path / str(i), ["noise", "left", "right"], form="mean", others={"refit": other})
        for i, other in enumerate((members, tmp_path / "refits"))
    )
    assert (same.form, [form.form for form in same.other_forms]) == ("mean", ["refit"])
    [form] = same.other_forms
    assert form.holdout == same.shipped.holdout
    assert (form.gain, form.gain_over_shipped.gain) == (same.shipped.gain_holdout, 0)
    assert form.cost == same.shipped.cost
    [form] = better.other_forms
    assert better.model_copy(update={"other_forms": ()}) == same.model_copy(update={"other_forms": ()})
    assert form.gain_over_shipped.is_above_zero
    assert describe_form(form, better.shipped.cost).startswith(
        "with one refit per recipe instead of the mean of its fold"
    )
    assert EnsembleResult.read(tmp_path / "1" / "ensemble.json") == better


def test_no_holdout_label_is_read_before_all_is_decided(members: Path, tmp_path: Path) -> None:
    labels = Labels(locked=True)

    def unlock(line: str) -> None:
        if "opening the hold-out" in line:
            labels.locked = False

    run(members, tmp_path, ["left", "right"], labels=labels, report=unlock)
    with pytest.raises(AssertionError, match="before the verdict"):
        run(members, tmp_path, ["left", "right"], labels=Labels(locked=True))


def test_a_second_opening_is_marked(members: Path, tmp_path: Path) -> None:
    run(members, tmp_path, ["left", "right"])
    again = run(members, tmp_path, ["left", "right"], opened_at="2025-02-02T00:00:00+00:00")
    assert [entry.at[:10] for entry in again.holdout_opened] == ["2025-01-01", "2025-02-02"]
    assert any("opened before" in caveat for caveat in again.caveats)


def test_equal_input_gives_an_equal_file(members: Path, tmp_path: Path) -> None:
    run(members, tmp_path / "a", ["left", "right"])
    run(members, tmp_path / "b", ["left", "right"])
    assert (tmp_path / "a" / "ensemble.json").read_bytes() == (tmp_path / "b" / "ensemble.json").read_bytes()


def test_shuffled_holdout_labels_give_no_gain(members: Path, tmp_path: Path) -> None:
    class Shuffled(Labels):
        def label(self, image_id: str) -> np.ndarray:
            return super().label(HOLDOUT[(HOLDOUT.index(image_id) + 5) % 24] if image_id in HOLDOUT else image_id)

    assert run(members, tmp_path, ["left", "right"], labels=Shuffled()).verdict.ship == "single"


def test_one_group_is_cross_fitted_in_blocks_ships_the_single_and_is_said(members: Path, tmp_path: Path) -> None:
    groups = {i: i.split("/")[0] for i in (*VAL, *HOLDOUT)}
    answer = run(members, tmp_path, ["left", "right"], grouped=True, groups=groups)
    assert (answer.unit, answer.verdict.ship) == ("group", "single")
    assert any("blocks" in caveat for caveat in answer.caveats)
    of_groups = [caveat for caveat in answer.caveats if "1 group" in caveat or "one group" in caveat]
    assert [caveat.partition(":")[0] for caveat in of_groups] == [
        "val is 1 group, which cannot be cross-fitted",
        "the hold-out is one group",
    ]


def test_many_groups_are_the_unit_of_the_intervals(members: Path, tmp_path: Path) -> None:
    groups = {i: f"{i[:3]}{int(i[-6:-4]) // 2}" for i in (*VAL, *HOLDOUT)}
    assert run(members, tmp_path, ["left", "right"], grouped=True, groups=groups).unit == "group"


def test_views_that_pay_are_chosen(tmp_path: Path) -> None:
    weak = np.full(5, 2.0)
    write_member(tmp_path, "many", weak, 5, ("s1.00-none", "s1.00-horizontal"))
    write_member(tmp_path, "one", weak, 6)
    answer = run(tmp_path, tmp_path / "out", ["one", "many"])
    assert answer.members[0].trial == "many"
    both = ("s1.00-none", "s1.00-horizontal")
    assert answer.members[0].views == both
    views = {rule.name: rule.views for rule in answer.rules}
    assert views["best_single"] == views["best_single_class"] == (("s1.00-none",), ())
    assert views["best_single_views"] == (both, ())
    scores = {rule.name: rule.val_crossfit.miou for rule in answer.rules}
    assert scores["best_single_views"] > scores["best_single"]


def test_a_search_that_was_cut_off_is_said(members: Path, tmp_path: Path) -> None:
    said = {}
    for max_sweeps in (1, 50):
        options = OPTIONS.model_copy(update={"max_sweeps": max_sweeps, "stacking": "off"})
        answer = run(members, tmp_path / str(max_sweeps), ["left", "right"], options)
        said[max_sweeps] = [caveat for caveat in answer.caveats if "still gained after" in caveat]
    assert said[50] == []
    assert len(said[1]) == 1
    assert "still gained after 1 sweeps" in said[1][0]


def test_a_class_whose_weights_are_all_zero_is_named() -> None:
    weights = np.array([[1, 0, 1], [1, 0, 0]], np.float32)
    caveat = never_predicted(weights, ("Road", "Pole", "Tree"))
    assert caveat is not None
    assert "weights of Pole are 0 for every member" in caveat
    labels = vote_labels(np.random.default_rng(0).random((2, 3, 500), np.float32), Vote("soft", weights))
    assert set(labels.tolist()) == {0, 2}
    assert never_predicted(np.ones((2, 3), np.float32), ("Road", "Pole", "Tree")) is None


def test_8_bit_logits_give_almost_the_same_scores(members: Path, tmp_path: Path) -> None:
    for trial in ("left", "right"):
        for split in ("val", "holdout"):
            store = LogitStore(members / trial / split)
            with LogitWriter(tmp_path / trial / split, replace(store.header, dtype="uint8")) as writer:
                for i in store.image_ids:
                    writer.add(i, np.asarray(store.logits("s1.00-none", i), np.float16), SIZE)
    both = [run(root, tmp_path / f"out{n}", ["left", "right"]) for n, root in enumerate((members, tmp_path))]
    for plain, rounded in zip(*(answer.rules for answer in both), strict=True):
        if plain.name in ("best_single", "soft_vote", "hard_vote"):  # nothing fitted
            assert rounded.holdout.miou == pytest.approx(plain.holdout.miou, abs=2e-3)


def test_nan_logits_of_another_tool_are_named_by_member_and_image(members: Path, tmp_path: Path) -> None:
    shutil.copytree(members / "left", tmp_path / "left")
    [path] = (tmp_path / "left" / "val").iterdir()
    path.write_bytes(path.read_bytes()[:-2] + np.float16(np.nan).tobytes())
    with pytest.raises(ValueError, match=rf"NaN or infinity in image '{VAL[-1]}', view 's1.00-none' of trial left"):
        run(tmp_path, tmp_path, ["left"])


def test_a_member_that_lacks_an_image_is_named(members: Path, tmp_path: Path) -> None:
    write_member(tmp_path, "left", np.ones(5), 1)
    (path,) = (tmp_path / "left" / "holdout").iterdir()
    store = LogitStore(path.parent)
    with LogitWriter(path.parent, store.header) as writer:
        writer.add(HOLDOUT[0], np.zeros((5, 4, 4), np.float16), SIZE)
    with pytest.raises(ValueError, match=r"left.holdout lacks 23 images in view s1\.00-none"):
        run(tmp_path, tmp_path, ["left"])


def test_stores_of_the_wrong_split_are_refused(members: Path, tmp_path: Path) -> None:
    val = [LogitStore(members / "left" / "val")]
    data = LabelledLogits(tuple(val), VAL, Labels(), VAL)
    with pytest.raises(ValueError, match="must hold logits of holdout, got val"):
        fit_ensemble(data, data, OPTIONS, Provenance(HoldoutOpening(at="now", by="a test")), tmp_path)


def write_costs(root: Path, trial: str, ms: dict[str, float]) -> None:
    (root / trial / "val" / "cost.json").write_text(json.dumps({"device": "cpu", "ms_an_image": ms}))


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two equal members with two views each, one of them three times as dear."""
    root = tmp_path_factory.mktemp("timed")
    for seed, trial, factor in ((5, "cheap", 1.0), (6, "dear", 3.0)):
        write_member(root, trial, np.full(5, 2.0), seed, ("s1.00-none", "s1.00-horizontal"))
        write_costs(root, trial, {"s1.00-none": 2 * factor, "s1.00-horizontal": 2.5 * factor})
    return root


@pytest.mark.parametrize("budget", [2.0, 5.0, 9.0])
def test_no_rule_costs_more_than_the_budget(timed: Path, tmp_path: Path, budget: float) -> None:
    answer = run(timed, tmp_path, ["cheap", "dear"], OPTIONS.model_copy(update={"latency_budget_ms": budget}))
    assert answer.cost_unit == "ms"
    assert all(0 < rule.cost <= budget for rule in answer.rules)
    assert all(row.ms <= budget for row in answer.pareto)
    if budget == 2.0:  # one plain view: there is nothing to join
        assert answer.verdict.ship == "single"


def test_the_front_rises_with_the_cost(timed: Path, tmp_path: Path) -> None:
    answer = run(timed, tmp_path, ["cheap", "dear"])
    front = [row for row in answer.pareto if row.front]
    assert [row.ms for row in front] == sorted({row.ms for row in front})
    assert [row.miou_crossfit for row in front] == sorted({row.miou_crossfit for row in front})
    assert front[0].members == ("cheap",)
    assert front[-1].ms == answer.rules[-1].cost == 18.0  # all four views are of use


def test_measured_times_decide_nothing_without_a_budget(timed: Path, tmp_path: Path) -> None:
    before = {trial: (timed / trial / "val/cost.json").read_text() for trial in ("cheap", "dear")}
    first = run(timed, tmp_path, ["cheap", "dear"])
    try:
        for trial, factor in (("cheap", 7.0), ("dear", 0.5)):
            write_costs(timed, trial, {"s1.00-none": 3 * factor, "s1.00-horizontal": factor})
        second = run(timed, tmp_path, ["cheap", "dear"])
    finally:
        for trial, text in before.items():
            (timed / trial / "val/cost.json").write_text(text)
    assert [rule.fitted for rule in first.rules] == [rule.fitted for rule in second.rules]
    assert [rule.cost for rule in first.rules] != [rule.cost for rule in second.rules]


def test_a_budget_that_no_member_keeps_is_refused_with_figures(timed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 1\.5 ms per image, and the cheapest takes 2 ms"):
        run(timed, tmp_path, ["cheap", "dear"], OPTIONS.model_copy(update={"latency_budget_ms": 1.5}))


def test_without_measured_costs_views_are_counted_and_a_budget_is_refused(members: Path, tmp_path: Path) -> None:
    answer = run(members, tmp_path, ["left", "right"])
    assert answer.cost_unit == "views"
    assert answer.rules[-1].cost == 2
    with pytest.raises(ValueError, match="run the logits stage again, which measures them"):
        run(members, tmp_path, ["left"], OPTIONS.model_copy(update={"latency_budget_ms": 5.0}))
