"""What becomes of tasks that raise, and of those whose process is killed."""

from __future__ import annotations

import os
import sys

import pytest
import ray
from ray.util.queue import Queue

from search.cluster.ray_tasks import as_they_end, in_turn, result_of, results_in_turn


def work(how: str) -> str:
    if how == "dies":
        os._exit(1)
    if how == "raises":
        raise ValueError("the weights were cut short")
    return how


@pytest.fixture
def task(local_ray: None) -> ray.remote_function.RemoteFunction:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    return ray.remote(max_retries=0)(work)


def test_a_killed_task_is_named_and_the_others_are_kept(task: ray.remote_function.RemoteFunction) -> None:
    ended = {
        how: (result, error)
        for how, result, error in as_they_end({task.remote(how): how for how in ("dies", "raises", "works")})
    }
    assert ended["works"] == ("works", None)
    assert ended["raises"] == (None, "the weights were cut short")
    assert "its process was lost on every try" in ended["dies"][1]
    assert "WorkerCrashedError" in ended["dies"][1]


def test_items_that_an_end_has_made_useless_are_not_started(task: ray.remote_function.RemoteFunction) -> None:
    started: list[str] = []
    failed: list[str] = []

    def start(how: str) -> object:
        started.append(how)
        return task.remote(how)

    wanted = (how for how in ("raises", "works", "never", "never") if how == "works" or not failed)
    for how, _, error in in_turn(wanted, start, room=0):
        if error is not None:
            failed.append(how)
    assert (started, failed) == (["raises", "works"], ["raises"])


def test_a_result_that_was_lost_is_an_error_with_a_remedy(task: ray.remote_function.RemoteFunction) -> None:
    with pytest.raises(ValueError, match=r"its process was lost on every try.*then resume the run"):
        result_of(task.remote("dies"))


def tell(lines: Queue, how: str) -> str:
    lines.put(f"{how} is under way")
    return work(how)


def heard(hows: list[str], room: int, said: list[str], started: list[str]) -> dict[str, str]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    lines, task = Queue(actor_options={"num_cpus": 0}), ray.remote(max_retries=0)(tell)

    def start(how: str) -> object:
        started.append(how)
        return task.remote(lines, how)

    return results_in_turn(hows, start, room, lines, said.append)


def test_results_come_by_item_and_all_that_was_said_is_heard(local_ray: None) -> None:
    said: list[str] = []
    assert heard(["one", "two", "three"], 2, said, []) == {how: how for how in ("one", "two", "three")}
    assert sorted(said) == [f"{how} is under way" for how in ("one", "three", "two")]


def test_none_is_started_after_one_that_failed_whose_error_is_raised(local_ray: None) -> None:
    said, started = list[str](), list[str]()
    with pytest.raises(ValueError, match="cut short"):
        heard(["raises", "never"], 0, said, started)
    assert (said, started) == (["raises is under way"], ["raises"])
