"""Files at a URI: the same on a real S3 server and on a disk; what is refused, and that no key is told."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.fs import FileInfo, FileType

from search.remote.keep import fetch_into
from search.remote.location import Location, StorageError, open_location


@pytest.fixture(params=["s3", "file"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    uri = request.getfixturevalue("uri") if request.param == "s3" else f"file://{tmp_path}/there/a"
    return open_location(uri, "--run-dir")


def test_files_come_back_as_they_were(location: Location, tmp_path: Path) -> None:
    content = os.urandom(9 * 2**20)  # more than one chunk
    (tmp_path / "big").write_bytes(content)
    location.upload(tmp_path / "big", "deep/er/big")
    location.write("small", b"1")
    location.write("small", b"22")
    assert location.sizes() == {"deep/er/big": len(content), "small": 2}
    location.download("deep/er/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert location.read("small") == b"22"
    location.delete("small")
    location.delete("small")
    assert location.read("small") is None
    assert location.sizes() == {"deep/er/big": len(content)}


@pytest.mark.parametrize("name", ["../out", "deep/../../out"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    """pyarrow's client writes no such name, others do: here the listing is made up."""
    listed = [FileInfo(f"runs/a/{one}", FileType.File, size=2) for one in ("run.json", name)]
    filesystem: Any = SimpleNamespace(get_file_info=lambda selector: listed)
    with pytest.raises(StorageError, match="names that lie inside"):
        fetch_into(Location("s3://runs/a", filesystem, "runs/a"), tmp_path / "run", print)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:word@bucket/a", "without keys.*a password"),
        ("s3://bucket/a?secret_key=1", "without keys.*secret_key"),
        ("s3://bucket/a?endpoint=1", "Unexpected query parameter.*endpoint_override=HOST:PORT"),
        ("s4://bucket/a", "Unrecognized filesystem type"),
        ("s3://bucket", "whole bucket; give s3://BUCKET/runs/NAME"),
    ],
)
def test_a_wrong_uri_is_refused_with_its_remedy(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        open_location(uri, "--run-dir")
    assert "word" not in str(refusal.value).replace("password", "")


def test_an_error_of_the_storage_tells_no_key(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "elsewhere")  # S3's errors name what was asked for
    with pytest.raises(StorageError) as failure:
        open_location(uri.replace("s3://runs", "s3://elsewhere"), "--run-dir").write("x", b"1")
    assert "NO_SUCH_BUCKET" in str(failure.value)
    assert "elsewhere" not in str(failure.value)
