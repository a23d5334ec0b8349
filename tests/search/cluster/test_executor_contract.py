"""One contract for every executor: one process or a cluster, whatever the size of a part."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from analysis.bundle.manifest import BundleError
from analysis.voting.executor import LOCAL, Executor, LocalExecutor, device_caveat
from search.cluster.ray_executor import RayExecutor
from trainables.logits.shard_format import TruncatedShard

IDS = tuple(f"{i:02d}.jpg" for i in range(23))
EXECUTORS: dict[str, Executor] = {
    "local": LOCAL,
    "local-1": LocalExecutor(images_per_part=1),
    "ray": RayExecutor(),
    "ray-3": RayExecutor(images_per_task=3),
}

ERRORS: dict[str, Callable[[], Exception]] = {
    "built-in": lambda: OSError(28, "No space left on device"),
    "own": lambda: BundleError("a bundle must be whole"),
    "of two arguments": lambda: TruncatedShard(Path("0.safetensors"), "80 bytes are missing", ["a.jpg"]),
}


@dataclass(frozen=True)
class Echo:
    """Gives the ids back; fails at its last image, or marks that it ran."""

    device: str | None = None
    error: str = ""
    marks: Path | None = None

    def __call__(self, ids: Sequence[str]) -> list[str]:
        if self.error and IDS[-1] in ids:
            raise ERRORS[self.error]()
        if self.marks:
            (self.marks / f"{ids[0]}-{os.getpid()}").touch()
        return list(ids)


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param.startswith("ray"):
        request.getfixturevalue("local_ray")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    return EXECUTORS[request.param]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_results_come_once_each_in_the_order_of_the_ids(executor: Executor, device: str | None) -> None:
    parts = list(executor(Echo(device), IDS))
    assert [image_id for part in parts for image_id in part] == list(IDS)
    assert all(parts)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_without_ids_nothing_runs(executor: Executor, device: str | None, tmp_path: Path) -> None:
    assert list(executor(Echo(device, marks=tmp_path), ())) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_what_a_job_raises_is_raised_here_with_its_message(executor: Executor, name: str, device: str | None) -> None:
    expected = ERRORS[name]()
    with pytest.raises((OSError, ValueError)) as raised:
        list(executor(Echo(device, error=name), IDS))
    assert str(raised.value) == str(expected)
    assert isinstance(expected, type(raised.value))


def test_a_caller_may_stop_early_and_go_on_with_another_job(executor: Executor) -> None:
    results = executor(Echo(), IDS)
    assert next(results)[0] == IDS[0]
    results.close()  # type: ignore[attr-defined]
    assert [image_id for part in executor(Echo(), IDS[:5]) for image_id in part] == list(IDS[:5])


def test_a_job_gets_no_device_that_is_not_offered(executor: Executor) -> None:
    assert executor.device is None
    assert device_caveat(executor) is None
