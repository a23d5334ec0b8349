from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from trainables.files import folder_made_whole, write_atomically, write_text


def test_a_text_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "ä")
    write_text(path, "ö")
    assert path.read_bytes() == "ö".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("torch: no space"), SafetensorError("no space")])
def test_errors_of_tensor_writers_become_oserror_with_the_free_space(tmp_path: Path, error: Exception) -> None:
    def fails(_temporary: Path) -> None:
        raise error

    with pytest.raises(OSError, match=r"could not be written, .* GiB free there \(.*no space\); free some"):
        write_atomically(tmp_path / "a", fails)


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = "import sys, trainables.files; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with folder_made_whole(tmp_path / "a/b") as folder:
        (folder / "c").write_text("d")
        assert not (tmp_path / "a/b").exists()
    assert (tmp_path / "a/b/c").read_text() == "d"
    with pytest.raises(ValueError, match="stop"), folder_made_whole(tmp_path / "e"):
        raise ValueError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
