"""Scoring and sampling as Ray tasks against the same in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from factories import PLAIN_VIEW, draw_sample, make_header, make_store

from analysis.voting.executor import LOCAL, Executor
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import score_images
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Vote
from search.cluster.ray_executor import RayExecutor
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.synthetic.dataset import write_synthetic


@dataclass(frozen=True)
class Made:
    """Two members' logits on the images of a cache."""

    data: LabelledLogits
    cache: Cache

    @property
    def ids(self) -> tuple[str, ...]:
        return self.data.ids


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("logits")
    index = read(read_card(write_synthetic(root / "data", num_images=18, image_px=64, seed=0)))
    cache = Cache.open(index, root / "cache")
    ids = tuple(record.image_id for record in index.images)
    stores = []
    for m in range(2):
        rng = np.random.default_rng(m)
        grids = {image_id: rng.normal(size=(index.num_classes, 16, 16)) for image_id in ids}
        header = make_header(str(m), classes=index.classes, stride=4)
        stores.append(make_store(root / str(m), header, grids, (64, 64)))
    return Made(LabelledLogits.of(stores, ids, cache, index), cache)


@pytest.mark.parametrize("images_per_task", [None, 1, 4])
def test_tasks_give_the_counts_of_one_process(local_ray: None, made: Made, images_per_task: int | None) -> None:
    votes = tuple(Vote(kind, np.ones((2, made.cache.index.num_classes), np.float32)) for kind in ("soft", "hard"))
    folds = [
        [VoteBatch(ViewConfig.plain(((PLAIN_VIEW,),) * 2), votes)],
        [VoteBatch(ViewConfig.plain(((PLAIN_VIEW,),) * 2), votes[::-1])],
    ]
    given = made.data, folds, "x"
    fold_of = [i % 2 for i in range(len(made.ids))]
    [expected] = score_images(*given, fold_of=fold_of)
    [found] = score_images(*given, fold_of=fold_of, executor=RayExecutor(images_per_task=images_per_task))
    np.testing.assert_array_equal(found, expected)


def test_tasks_draw_the_sample_of_one_process(local_ray: None, made: Made) -> None:
    def drawn(executor: Executor) -> list[np.ndarray]:
        sample = draw_sample(made.data, 2**18, 3, executor)
        return [sample.truth, sample.image, *sample.by_view]

    for found, expected in zip(drawn(RayExecutor()), drawn(LOCAL), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_tasks_find_the_ensemble_of_one_process(local_ray: None, judged_with: Callable[..., bytes]) -> None:
    few: dict[str, Any] = {"temperature": "off", "max_sweeps": 1}
    assert judged_with(RayExecutor(), **few) == judged_with(LOCAL, **few)


@dataclass(frozen=True)
class Where:
    """A job that says where it ran; or ends its process at an image."""

    device: str | None = None
    dies_at: str = ""
    marks: Path = Path()

    def __call__(self, ids: Sequence[str]) -> tuple[list[str], int, str]:
        if self.dies_at in ids and not (self.marks / "died").exists():
            (self.marks / "died").touch()
            os._exit(1)
        return list(ids), os.getpid(), os.environ["OMP_NUM_THREADS"]


IDS = [str(i) for i in range(50)]
SPREAD = RayExecutor(images_per_task=3)


@pytest.fixture
def by_value(local_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


@pytest.mark.parametrize("device", [None, "cpu"])
def test_parts_run_in_other_processes_with_one_thread(by_value: None, device: str | None) -> None:
    results = list(SPREAD(Where(device), IDS))
    assert os.getpid() not in {pid for _, pid, _ in results}
    assert {threads for _, _, threads in results} == {"1"}


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_part_whose_process_was_lost_runs_again(by_value: None, device: str | None, tmp_path: Path) -> None:
    results = list(SPREAD(Where(device, dies_at="30", marks=tmp_path), IDS))
    assert (tmp_path / "died").exists()
    assert [i for part, _, _ in results for i in part] == IDS


def test_a_gpu_is_offered_only_where_tasks_hold_one() -> None:
    assert RayExecutor().device is None
    assert RayExecutor(gpus_per_task=0.5).device == "cuda"


def test_the_stores_travel_as_paths(made: Made) -> None:
    assert len(ray.cloudpickle.dumps((made.data.stores, made.cache))) < 2048
