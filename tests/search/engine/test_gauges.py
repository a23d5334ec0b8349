"""What Prometheus would read of a search, from the real port of a real node."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import yaml
from factories import make_row
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from search.engine.gauges import GAUGES, TrialGauges, metrics_address

DEPLOY = Path(__file__).parents[3] / "search" / "cluster" / "deploy"
WAIT_S = 60  # Ray collects every few seconds


def exported(pattern: str) -> str:
    """The first line that matches, once it is there."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(metrics_address(), timeout=10) as answer:  # noqa: S310 (our own node)
            found = re.search(rf"(?m)^{pattern}.*$", answer.read().decode())
        if found:
            return found[0]
        time.sleep(0.5)
    raise AssertionError(f"no line {pattern}")


def test_an_epochs_values_are_exported_by_trial_and_family(local_ray: None) -> None:
    said: list[str] = []
    gauges = TrialGauges(said.append)
    gauges.begin({}, 1)
    assert said == [f"metrics: {metrics_address()} (Prometheus, see docs/cluster.md)"]
    gauges.epoch(make_row(7), {"epoch": 2, "val/miou": 0.625, "train/loss": float("nan")})
    line = exported("ray_segsearch_val_miou")
    assert float(line.split()[-1]) == 0.625
    assert f'trial="{make_row(7).trial}"' in line
    assert f'family="{make_row(7).family}"' in line


def test_the_dashboard_asks_for_gauges_that_there_are() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for expression in asked for name in re.findall(r"ray_(segsearch_\w+)", expression)}
    assert names == {name for name, _ in GAUGES.values()}


def test_prometheus_finds_the_nodes_where_ray_lists_them() -> None:
    [job] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    [discovery] = job["file_sd_configs"]
    assert [Path(file).name for file in discovery["files"]] == [PROMETHEUS_SERVICE_DISCOVERY_FILE]
