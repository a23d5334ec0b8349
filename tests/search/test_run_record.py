"""run.json before and after a run has begun."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from search.run_arguments import RunArguments
from search.run_dir import RunDir, check_new, read_json, write_json
from search.run_record import changed_versions, check_same, claim, has_begun, package_versions, read_record
from trainables.command import DEFAULT_CACHE

ASKED = RunArguments("convnext.yaml", None, ("seed=1",), None, None, None, None, DEFAULT_CACHE, dashboard=False)


@pytest.fixture
def claimed(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    claim(run, ASKED, Path("/data/data.yaml"), "abc", datetime(2026, 1, 2), ("search/run.py",))
    return run


@pytest.mark.parametrize(("what", "same"), [("data", "abc"), ("split", "def")])
def test_a_run_is_resumed_on_its_own_data_and_split_alone(what: Any, same: str) -> None:
    record = {"data_fingerprint": "abc", "split_fingerprint": "def"}
    check_same(record, what, same)
    with pytest.raises(ValueError, match=f"needs the {what} that it began with .*got new; restore the files or start"):
        check_same(record, what, "new")


def test_a_claimed_run_can_be_resumed_or_started_anew(claimed: RunDir) -> None:
    record = read_record(claimed)
    assert record["asked"]["assignments"] == ["seed=1"]
    assert not has_begun(record)
    check_new(claimed.root)


@pytest.mark.parametrize("sign", [{"split_fingerprint": "x"}, {"stages": {"search": "then"}}])
def test_a_run_that_has_begun_is_not_started_anew(claimed: RunDir, sign: dict[str, object]) -> None:
    write_json(claimed.run_json, read_json(claimed.run_json) | sign)
    with pytest.raises(ValueError, match="which holds one; use --resume"):
        check_new(claimed.root)


def test_a_record_that_lacks_keys_names_them(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"stages": {}, "asked": {}})
    with pytest.raises(ValueError, match=r"lacks asked.space, .* card, data_fingerprint, versions, started; restore"):
        read_record(RunDir(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [("asked", []), ("card", 3), ("stages", [1]), ("versions", {"torch": 2}), ("started", "soon"), ("space", None)],
)
def test_a_record_with_a_value_of_another_kind_names_it(claimed: RunDir, key: str, value: object) -> None:
    write_json(claimed.run_json, read_json(claimed.run_json) | {key: value})
    with pytest.raises(ValueError, match=rf"run.json must be a run's record, got .* for {key}.*; restore it"):
        read_record(claimed)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert package_versions()["segsearch"] is None


def test_changed_versions_are_listed() -> None:
    now = package_versions()
    assert changed_versions({"versions": now}) == []
    assert changed_versions({"versions": now | {"torch": "1.0"}}) == [f"torch 1.0, now {now['torch']}"]
