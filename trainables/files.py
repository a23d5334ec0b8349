"""Atomic writes: a file appears whole or not at all. Light to import, as everything writes files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError


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


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
