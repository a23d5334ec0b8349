"""One contract for every rule of the registry, fitted to one sample of pixels."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from analysis.ensembling.fitted_rule import FittedRule
from analysis.ensembling.rules import JOINT, OWN_VIEWS, PLAIN, RULES, Sample, fit_rules
from analysis.ensembling.stacker_file import read_stacker, write_stackers
from analysis.report.page import RULE_LABELS
from analysis.voting.votes import Vote, vote_labels
from analysis.weight_search.pixels import Pixels
from trainables.metrics import confusion, miou

P = 900
# coordinate search takes members one after the other, and a hidden layer starts at random numbers: their order decides
ORDERED = ("member", "member_class", "stacked")
Fits = dict[str, list[Vote]]


def problem(num_members: int, num_classes: int, absent: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M,K,P) that know something about labels (P,); the last `absent` classes occur nowhere, some
    pixels are ignored."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, max(num_classes - absent, 2), P).astype(np.uint8)
    logits = rng.normal(size=(num_members, num_classes, P))
    logits[:, truth, np.arange(P)] += rng.uniform(0.5, 2, (num_members, 1))
    q = np.exp(logits)
    truth[::11] = 255
    return (q / q.sum(1, keepdims=True)).astype(np.float32), truth


def fitted(q: np.ndarray, truth: np.ndarray) -> Fits:
    folds = np.arange(truth.size) // 30 % 3
    return fit_rules(Sample(Pixels(np.ascontiguousarray(q), truth), max_sweeps=3, folds=folds), list(RULES))


def score(q: np.ndarray, truth: np.ndarray, vote: Vote) -> float:
    kept = truth != 255
    return float(miou(confusion(truth[kept], vote_labels(q, vote)[kept], q.shape[1])))


@pytest.fixture(scope="module")
def of_one() -> Fits:
    return fitted(*problem(1, 4, absent=0))


@pytest.fixture(scope="module")
def of_three() -> Fits:
    return fitted(*problem(3, 5))


def test_every_rule_reads_one_kind_of_views_and_has_a_name_in_the_report() -> None:
    assert sorted((*PLAIN, *OWN_VIEWS, *JOINT)) == sorted(RULES)
    assert set(RULES) <= set(RULE_LABELS)


@pytest.mark.parametrize("rule", RULES)
def test_one_member_alone_keeps_its_labels_where_no_class_is_weighted(rule: str, of_one: Fits) -> None:
    q, truth = problem(1, 4, absent=0)
    # of shrunk candidates the plain rule itself; that of a weight per member and class has class weights
    plainest = of_one["soft_class" if rule == "member_class" else rule][-1]
    np.testing.assert_array_equal(vote_labels(q, plainest), q[0].argmax(0))
    assert score(q, truth, of_one[rule][0]) >= score(q, truth, plainest)


@pytest.mark.parametrize("rule", RULES)
def test_every_candidate_weighs_m_members_and_k_classes(rule: str, of_three: Fits) -> None:
    for vote in of_three[rule]:
        assert vote.weights.shape == (3, 5)
        assert vote.weights.dtype == np.float32
        assert np.isfinite(vote.weights).all()
        assert (vote.weights >= 0).all()
        assert vote.weights.any()
        assert vote_labels(problem(3, 5)[0], vote).max() < 5


UNORDERED = [name for name in RULES if name not in ORDERED]


@pytest.fixture(scope="module", params=list(permutations(range(3)))[1:])
def turned(request: pytest.FixtureRequest) -> tuple[list[int], Fits, Fits]:
    """An order of three members, and fits of the members as they are and in that order."""
    order = list(request.param)
    q, truth = problem(3, 2)  # three votes on two classes: no hard vote is a tie
    plain, again = (fit_rules(Sample(Pixels(x, truth)), UNORDERED) for x in (q, np.ascontiguousarray(q[order])))
    return order, plain, again


@pytest.mark.parametrize("rule", UNORDERED)
def test_the_order_of_members_changes_no_label(rule: str, turned: tuple[list[int], Fits, Fits]) -> None:
    order, plain, again = turned
    q = problem(3, 2)[0]
    for before, after in zip(plain[rule], again[rule], strict=True):
        np.testing.assert_allclose(after.weights, before.weights[order], rtol=1e-5)
        np.testing.assert_array_equal(vote_labels(q[order], after), vote_labels(q, before))


@pytest.mark.parametrize("rule", RULES)
def test_a_fitted_rule_survives_json_to_the_last_bit(rule: str, of_three: Fits, tmp_path: Path) -> None:
    q = problem(3, 5)[0]
    for vote in of_three[rule]:
        views = tuple(("s1.00-none",) if m in vote.used else () for m in range(3))
        weights = tuple(map(tuple, vote.weights.tolist()))
        stacker = write_stackers(tmp_path, {rule: vote}).get(rule)
        before = FittedRule(kind=vote.kind, views=views, temperatures=(1.0, 1.5, 0.3), weights=weights, stacker=stacker)
        after = FittedRule.model_validate_json(before.model_dump_json())
        assert after == before
        np.testing.assert_array_equal(np.array(after.weights, np.float32), vote.weights)
        again = read_stacker(tmp_path, after.stacker, len(after.used), 5) if after.stacker else None
        of_used = Vote(after.kind, np.array(after.of_used().weights, np.float32), again)
        np.testing.assert_array_equal(vote_labels(q[list(after.used)], of_used), vote_labels(q, vote))


def test_equal_samples_give_equal_votes(of_three: Fits) -> None:
    again = fitted(*problem(3, 5))
    for rule, votes in of_three.items():
        assert [vote.key for vote in again[rule]] == [vote.key for vote in votes], rule


@pytest.mark.parametrize("rule", RULES)
def test_a_class_that_does_not_occur_keeps_the_plainer_weights(rule: str, of_three: Fits) -> None:
    fitted, plain = of_three[rule][0].weights, of_three[rule][-1].weights  # of shrunk candidates the plain rule itself
    if rule == "member":  # one weight per member, whatever the class
        np.testing.assert_array_equal(fitted[:, 4], fitted[:, 0])
    else:
        assert fitted[:, 4] == pytest.approx(plain[:, 4] * fitted[:, :4].mean() / plain[:, :4].mean(), rel=1e-5)


def test_on_its_own_sample_a_richer_fit_is_no_worse_than_the_plainer_ones() -> None:
    q, truth = problem(3, 5, absent=0)
    scores = {name: score(q, truth, votes[0]) for name, votes in fitted(q, truth).items()}
    plainer = {
        "best_single_class": ["best_single"],
        "soft_class": ["soft_vote"],
        "greedy": ["best_single"],
        "member": ["best_single", "soft_vote", "greedy"],
        "member_class": ["best_single_class", "soft_class", "member"],
    }
    assert all(scores[rich] >= scores[name] for rich, names in plainer.items() for name in names)
    alone = Vote("soft", np.ones((1, 5), np.float32))
    assert scores["best_single"] == max(score(q[m : m + 1], truth, alone) for m in range(3))


def test_a_sample_without_labels_is_refused() -> None:
    q, truth = problem(2, 3)
    with pytest.raises(ValueError, match="labelled pixels"):
        fitted(q, np.full_like(truth, 255))
