"""A sample that actors hold against the same in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import ray

from analysis.voting.executor import HERE, HeldHere, Spread
from search.cluster.parts import HeldInActors
from search.cluster.ray_executor import RaySpread


def test_actors_find_the_ensemble_of_one_process(local_ray: None, judged_with: Callable[..., bytes]) -> None:
    few: dict[str, Any] = {"temperature": "off", "max_sweeps": 1}  # every line is a call or two
    assert judged_with(RaySpread(in_actors=True), **few) == judged_with(HERE, **few)


@dataclass
class Thing:
    """A share that says where it is, and whose it is."""

    ids: list[str]

    def where(self) -> int:
        return os.getpid()

    def both(self, more: int) -> tuple[list[str], int]:
        return self.ids, more

    def next(self, name: str) -> Thing:
        return Thing([name])


@dataclass(frozen=True)
class Making:
    fails_at: str = ""

    def __call__(self, ids: Sequence[str], spread: Spread) -> Thing:
        if self.fails_at in ids:
            raise ValueError(f"logits must be finite, got NaN in image '{self.fails_at}'")
        return Thing(list(ids))


@pytest.fixture
def by_value(local_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


IDS = list("abcde")


def test_shares_lie_in_processes_of_their_own_in_the_order_of_their_ids(by_value: None) -> None:
    places = RaySpread(in_actors=True).hold(Making(), IDS)
    assert isinstance(places, HeldInActors)
    found = places.each("call", [(0, "both", n) for n in range(places.num)])
    assert [i for ids, _ in found for i in ids] == IDS
    assert [n for _, n in found] == list(range(places.num))
    pids = places.each("call", [(0, "where")] * places.num)
    assert len({*pids, os.getpid()}) == places.num + 1
    places.each("push", [(0, "next", "x")] * places.num)
    assert places.each("call", [(1, "both", 0)] * places.num) == [(["x"], 0)] * places.num
    places.close()
    assert list(RaySpread(images_a_task=2)(Job(), IDS)) == [2, 2, 1]  # the CPUs are free again


@dataclass(frozen=True)
class Job:
    device: None = None

    def __call__(self, ids: Sequence[str]) -> int:
        return len(ids)


def test_what_making_raises_is_raised_here_as_it_was(by_value: None) -> None:
    with pytest.raises(ValueError, match=r"^logits must be finite, got NaN in image 'd'$"):
        RaySpread(in_actors=True).hold(Making(fails_at="d"), IDS)


@pytest.mark.parametrize(("num_nodes", "where"), [(1, HeldHere), (3, HeldInActors)])
def test_one_node_holds_the_sample_in_this_process(
    by_value: None, monkeypatch: pytest.MonkeyPatch, num_nodes: int, where: type
) -> None:
    nodes = [{"Alive": True}] * num_nodes + [{"Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    places = RaySpread().hold(Making(), IDS)
    assert isinstance(places, where)
    places.close()
