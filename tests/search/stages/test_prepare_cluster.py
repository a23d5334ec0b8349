"""What a stage needs of the cluster is checked before any begins."""

from __future__ import annotations

from typing import Any

import pytest

from search.cluster.nodes import Node
from search.space.options import Options, Resources
from search.stages import prepare_cluster
from search.stages.prepare_cluster import WITH_TASKS, check_cluster, share_of
from search.stages.stage import Stage


def context_of(**resources: float) -> Any:
    space = type("Space", (), {"options": Options(resources=Resources(**resources))})  # type: ignore[arg-type]
    return type("Context", (), {"space": space})


@pytest.mark.parametrize("stage", WITH_TASKS)
def test_a_run_that_is_resumed_without_its_gpus_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_cluster, "live_nodes", lambda: (Node(8.0),))
    with pytest.raises(ValueError, match=r"got resources.gpu 1 .* 0 GPUs and 8 CPUs"):
        check_cluster(context_of(gpu=1, cpu=8), [stage, Stage.report])
    check_cluster(context_of(gpu=1, cpu=8), [Stage.bundle, Stage.report])


def test_later_stages_hold_one_device_at_most() -> None:
    held = {stage: share_of(Resources(gpu=4, cpu=8), stage) for stage in WITH_TASKS}
    assert held[Stage.search] == held[Stage.folds] == {"cpu": 8, "gpu": 4}
    assert held[Stage.logits] == held[Stage.soups] == {"cpu": 8, "gpu": 1}
    assert held[Stage.ensemble] == {"cpu": 1, "gpu": 1}
