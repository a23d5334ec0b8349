from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from search import pipeline
from search.run_dir import RunDir
from search.stages.stage import Context, Stage


def test_the_list_of_stages_has_ticks_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = RunDir(tmp_path), []
    before = list(Stage)[: list(Stage).index(Stage.bundle)]
    record = {"stages": dict.fromkeys(before, "then"), "stage_s": dict.fromkeys(before, 70)}
    run.run_json.write_text(json.dumps(record), encoding="utf-8")
    moments = (datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=4 * n) for n in range(9))
    monkeypatch.setitem(pipeline.STAGES, Stage.bundle, lambda context: None)
    nothing: Any = None
    pipeline.run_all(Context(run, nothing, nothing, said.append, lambda: next(moments)), until=Stage.bundle)
    ticked = "  ".join(f"[x] {name} 1m10s" for name in before)
    assert said[-2:] == [f"== bundle\n{ticked}  [>] bundle", f"{ticked}  [x] bundle 4s"]
