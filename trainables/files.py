"""Atomic writes (a file or folder appears whole or not at all) and paths that users wrote. Light to import."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

UNFINISHED = re.compile(r"\..+\.\d+\.tmp")  # the name, and the process that wrote it
MAX_NAME_BYTES = 255  # of every file system in use
MAX_PATH_BYTES = 3500  # Linux has 4096 for the whole, with what it is relative to


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it; nothing is left behind where it fails.
    Missing folders are made.

    Raises OSError where the disk is full or not writable; `path` then keeps what it had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    except (RuntimeError, SafetensorError) as error:  # torch's and safetensors' writers have no errors of their own
        free_gib = shutil.disk_usage(path.parent).free / 2**30
        raise OSError(f"{path} could not be written, {free_gib:.2f} GiB free there ({error}); free some") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of their atomic writes: `path` where it is one, else those below it. Nobody may
    be writing there."""
    for found in (path, *path.rglob(".*.tmp")):
        if UNFINISHED.fullmatch(found.name):
            found.unlink(missing_ok=True)


def user_path(text: str) -> Path:
    """The path that a user wrote, with `~` expanded.

    Raises ValueError, with the rule, for text that can name no file here, and for the home of an unknown user.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a path must be text that can name a file, got {text!r:.80}, half a surrogate pair") from None
    if "\0" in text:
        raise ValueError(f"a path must be text that can name a file, got {text!r:.80}, with a NUL")
    longest = max(map(len, encoded.split(b"/")))
    if longest > MAX_NAME_BYTES or len(encoded) > MAX_PATH_BYTES:
        raise ValueError(
            f"a path must have at most {MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} between its slashes, got "
            f"{text!r:.80} with {len(encoded)} and {longest}"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"a path must begin with a folder that is known, got {text!r:.80}: {error}") from error


def can_name_file(text: str) -> bool:
    """Whether `user_path` takes it as a name under some folder."""
    try:
        user_path(f"./{text}")
    except ValueError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def folder_made_whole(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it at the end; nothing is left behind where that is not reached.
    Missing folders above are made.

    Raises OSError where `path` is a folder that holds something by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's 0700 would shut out the others who share the machine
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
