"""The scoring pass: the same counts however it is divided, and on a torch device."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from factories import draw_sample, make_header, make_store

from analysis.ensembling.pixel_sampling import strata_of
from analysis.voting import votes_torch
from analysis.voting.executor import LocalExecutor, silent
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.probabilities import probabilities
from analysis.voting.score_images import Scoring, score_images
from analysis.voting.stacker import Stacker
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Vote, labels_by_vote, stacked_scores
from analysis.voting.votes_torch import DeviceCounter, labels_on_device
from trainables.logits.store import LogitStore
from trainables.metrics import confusion

VIEWS = ("s1.00-none", "s1.50-none")
IDS = tuple(f"{i}.jpg" for i in range(11))
NUM_MEMBERS, NUM_CLASSES = 3, 4
CPU = torch.device("cpu")


def size_of(image_id: str) -> tuple[int, int]:
    return 18 + 2 * IDS.index(image_id), 23


@dataclass(frozen=True)
class Blocks:
    """Labels (H,W) with ignored pixels."""

    def label(self, image_id: str) -> np.ndarray:
        label = np.random.default_rng(IDS.index(image_id)).integers(0, NUM_CLASSES, size_of(image_id)).astype(np.uint8)
        label[:, :3] = 255
        return label


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[LogitStore]:
    root = tmp_path_factory.mktemp("logits")
    for m in range(NUM_MEMBERS):
        for v, view in enumerate(VIEWS):
            header = make_header(str(m), classes="abcd", view=view, stride=2)
            grids = [
                3 * np.random.default_rng([m, v, i]).normal(size=(NUM_CLASSES, 9 + i, 12 + v)) for i in range(len(IDS))
            ]
            make_store(root / str(m), header, dict(zip(IDS, grids, strict=True)), size_of)
    return [LogitStore(root / str(m)) for m in range(NUM_MEMBERS)]


def stacker_of(rng: np.random.Generator, num_members: int, fitted: Sequence[bool] = (True,) * NUM_CLASSES) -> Stacker:
    shapes = [(8, num_members * NUM_CLASSES), (8,), (NUM_CLASSES, 8), (NUM_CLASSES,)]
    layers = [rng.normal(size=shape).astype(np.float32) / 2 for shape in shapes]
    for layer in layers[2:]:
        layer[~np.array(fitted)] = 0
    return Stacker(tuple(layers), np.array(fitted))


def batches() -> list[list[VoteBatch]]:
    """Two folds of two ballots, of different views."""
    rng = np.random.default_rng(5)
    votes = [
        Vote(kind, rng.uniform(0, 2, (NUM_MEMBERS, NUM_CLASSES)).astype(np.float32) if kind != "hard" else ones)
        for kind in ("soft", "soft", "geometric", "hard")
        for ones in [np.ones((NUM_MEMBERS, NUM_CLASSES), np.float32)]
    ]
    votes += [Vote("stacked", np.full((NUM_MEMBERS, NUM_CLASSES), 1.5, np.float32), stacker_of(rng, NUM_MEMBERS))]
    partial = np.tile(rng.uniform(0.5, 2, NUM_CLASSES).astype(np.float32), (NUM_MEMBERS, 1))
    partial[1] = 0
    last = Vote("stacked", partial, stacker_of(rng, NUM_MEMBERS - 1, fitted=[True, False, True, True]))
    votes += [last, replace(last, stacker=last.stacker.at_strength(0.5))]
    plain = ViewConfig.plain((VIEWS[:1],) * NUM_MEMBERS)
    rich = ViewConfig((VIEWS, VIEWS[:1], VIEWS[::-1]), (1.0, 1.7, 0.6))
    return [
        [VoteBatch(plain, tuple(votes[:3])), VoteBatch(rich, tuple(votes))],
        [VoteBatch(rich, tuple(votes[1:4])), VoteBatch(rich, tuple(votes))],
    ]


def seen(stores: Sequence[LogitStore], view_config: ViewConfig, image_id: str) -> np.ndarray:
    """(M,K,P)"""
    members = zip(stores, view_config.views, view_config.temperatures, strict=True)
    q = [probabilities(store, views, image_id, temperature=t) for store, views, t in members]
    return np.stack(q).reshape(NUM_MEMBERS, NUM_CLASSES, -1)


def data_of(stores: Sequence[LogitStore]) -> LabelledLogits:
    return LabelledLogits(tuple(stores), IDS, Blocks(), IDS)


FOLDS = [i % 2 for i in range(len(IDS))]


def score(stores: Sequence[LogitStore], executor: Any) -> list[np.ndarray]:
    return score_images(data_of(stores), batches(), "x", fold_of=FOLDS, executor=executor)


@dataclass(frozen=True)
class Scattered:
    """Parts of uneven size, run in another order by copies of the job that came through a pickle."""

    device: None = None
    say: Callable[[str], None] = silent

    def __call__(self, job: Any, ids: Sequence[str], what: str = "") -> Iterator[Any]:
        parts = [ids[:1], ids[1:4], ids[4:]]
        found = {}
        for p in (2, 0, 1):
            found[p] = pickle.loads(pickle.dumps(job))(parts[p])  # noqa: S301
        yield from (found[p] for p in range(3))


def test_the_counts_are_those_of_each_vote_on_each_image(stores: list[LogitStore]) -> None:
    counts = score(stores, LocalExecutor())
    for i, image_id in enumerate(IDS):
        for found, batch in zip(counts, batches()[FOLDS[i]], strict=True):
            q = seen(stores, batch.view_config, image_id)
            label = Blocks().label(image_id).reshape(-1)
            expected = [confusion(label, row, NUM_CLASSES) for row in labels_by_vote(q, batch.votes)]
            np.testing.assert_array_equal(found[i], expected)


@pytest.mark.parametrize("executor", [LocalExecutor(1), LocalExecutor(3), Scattered()])
def test_any_division_of_the_images_gives_the_same_counts(stores: list[LogitStore], executor: Any) -> None:
    for found, whole in zip(score(stores, executor), score(stores, LocalExecutor(100)), strict=True):
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("executor", [LocalExecutor(1), Scattered()])
@pytest.mark.parametrize("sample_bytes", [2**14, 2**30])
def test_any_division_of_the_images_gives_the_same_sample(
    stores: list[LogitStore], executor: Any, sample_bytes: int
) -> None:
    def drawn(executor: Any) -> Any:
        return draw_sample(data_of(stores), sample_bytes, 7, executor)

    found, whole = drawn(executor), drawn(LocalExecutor(100))
    np.testing.assert_array_equal(found.truth, whole.truth)
    np.testing.assert_array_equal(found.image, whole.image)
    for mine, other in zip(found.by_view, whole.by_view, strict=True):
        assert mine.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(mine, other)
    at = found.image == 4
    if sample_bytes == 2**30:
        label = Blocks().label(IDS[4])
        flat = np.concatenate(strata_of(label))
        np.testing.assert_array_equal(found.truth[at], label.reshape(-1)[flat])
        expected = probabilities(stores[1], VIEWS[1:], IDS[4]).reshape(NUM_CLASSES, -1)[:, flat]
        np.testing.assert_allclose(found.by_view[1][1][:, at], expected, atol=1e-6)


def test_the_job_that_travels_is_small(stores: list[LogitStore]) -> None:
    job = Scoring.of(data_of(stores), batches(), FOLDS, None)
    assert len(pickle.dumps(job)) < 8192


def two_highest_apart(q: np.ndarray, vote: Vote) -> np.ndarray:
    """By how much the winner leads, a pixel (P,)."""
    if vote.kind == "stacked":
        scores = np.sort(stacked_scores(q, vote), axis=0)
        return (scores[-1] - scores[-2]) / scores[-1]
    if vote.kind == "hard":
        lead = np.sort(q, axis=1)
        return (lead[:, -1] - lead[:, -2]).min(0)
    values = np.log(np.maximum(q, 1e-6)) if vote.kind == "geometric" else q
    scores = np.sort(np.einsum("mk,mkp->kp", vote.weights, values), axis=0)
    return scores[-1] - scores[-2]


def test_a_torch_device_labels_as_the_kernels_do(stores: list[LogitStore]) -> None:
    batch = batches()[0][1]
    differing, total = 0, 0
    for image_id in IDS:
        q = seen(stores, batch.view_config, image_id)
        on_device = DeviceCounter(stores, "cpu").probabilities(batch.view_config, image_id, range(NUM_MEMBERS))
        np.testing.assert_allclose(on_device.numpy(), q, atol=1e-5)
        found = labels_on_device(on_device, batch.votes, CPU).numpy()
        differs = found != labels_by_vote(q, batch.votes)
        for row, vote in zip(differs, batch.votes, strict=True):
            assert (two_highest_apart(q, vote)[row] < 1e-5).all()
        differing, total = differing + int(differs.sum()), total + differs.size
    assert differing < 1e-5 * total


def test_ties_fall_as_the_kernels_let_them() -> None:

    rng = np.random.default_rng(0)
    q = rng.integers(0, 3, (NUM_MEMBERS, NUM_CLASSES, 500)).astype(np.float32) / 4  # ties everywhere
    votes = [Vote(kind, np.ones((NUM_MEMBERS, NUM_CLASSES), np.float32)) for kind in ("soft", "geometric", "hard")]
    votes.append(Vote("hard", np.array([[0] * 4, [1] * 4, [1] * 4], np.float32)))  # the first member is left out
    np.testing.assert_array_equal(labels_on_device(torch.from_numpy(q), votes, CPU).numpy(), labels_by_vote(q, votes))


def test_counts_by_a_device_are_the_kernels(stores: list[LogitStore]) -> None:
    by_device, by_kernels = score(stores, LocalExecutor(device="cpu")), score(stores, LocalExecutor())
    for found, expected in zip(by_device, by_kernels, strict=True):
        np.testing.assert_array_equal(found.sum((2, 3)), expected.sum((2, 3)))
        assert np.abs(found - expected).sum() <= 2e-5 * expected.sum()


class Full(DeviceCounter):
    """On a device that holds no image's probabilities; what is asked of the host lies there."""

    def room(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().room(shape)


def test_probabilities_that_do_not_fit_lie_in_the_hosts_memory_and_count_the_same(stores: list[LogitStore]) -> None:
    batch = batches()[0][1]
    plain, full = DeviceCounter(stores, "cpu"), Full(stores, "cpu")
    for image_id in IDS[:3]:
        counted = [c.count(batch.view_config, image_id, Blocks().label(image_id), batch.votes) for c in (plain, full)]
        np.testing.assert_array_equal(*counted)
    assert plain.fits
    assert not full.fits


def test_an_image_larger_than_a_block_is_labelled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    q = rng.uniform(size=(NUM_MEMBERS, NUM_CLASSES, 250)).astype(np.float32)
    whole = labels_on_device(torch.from_numpy(q), batches()[0][1].votes, CPU)
    monkeypatch.setattr(votes_torch, "BLOCK", 64)
    assert torch.equal(labels_on_device(torch.from_numpy(q), batches()[0][1].votes, CPU), whole)
