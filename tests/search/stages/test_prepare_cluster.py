"""What a stage needs of the cluster is checked before any begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.cluster.nodes import Node
from search.cluster.remote_folder import RemoteFolder
from search.cluster.run_files import RunFiles
from search.run_dir import RunDir
from search.space.options import Options, Resources
from search.stages import prepare_cluster
from search.stages.prepare_cluster import WITH_TASKS, check_cluster, share_of
from search.stages.stage import Stage


def context_of(**resources: float) -> Any:
    space = type("Space", (), {"options": Options(resources=Resources(**resources))})  # type: ignore[arg-type]
    return type("Context", (), {"space": space, "files": RunFiles(RunDir(Path()))})


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


def test_what_reads_all_over_the_run_needs_the_machine_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The ensemble works there without a GPU; a search needs none there."""
    nodes = [Node(0.0, node_id="driver"), Node(8.0, 1.0, node_id="other")]
    monkeypatch.setattr(prepare_cluster, "live_nodes", lambda: nodes)
    monkeypatch.setattr(prepare_cluster, "gpu_memory_gb", lambda nodes: 8.0)
    context = context_of(gpu=1, cpu=8)
    context.files = RunFiles(RunDir(tmp_path), RemoteFolder(tmp_path, "service", "marker"), "driver")
    check_cluster(context, [Stage.search, Stage.folds, Stage.logits])
    with pytest.raises(ValueError, match=r"the ensemble stage runs on the machine that has .* got 0 CPUs and 0 GPUs"):
        check_cluster(context, [Stage.search, Stage.ensemble])
    nodes[0] = Node(1.0, node_id="driver")
    check_cluster(context, [Stage.search, Stage.ensemble, Stage.pseudo])
    context.space.options = context.space.options.model_copy(update={"pseudo": object()})
    with pytest.raises(ValueError, match=r"the pseudo stage .* needs 8 CPUs and 1 GPUs .* got 1 CPUs and 0 GPUs"):
        check_cluster(context, [Stage.pseudo])
