"""Gives numba a cache folder of its own for every state of the sources that have compiled kernels.

By itself numba checks the file of the compiled function alone. Where a function that it calls, or a constant that it
uses, changes in another file, the old machine code would still be run, with wrong numbers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

PACKAGES = ("trainables", "analysis")


def use_own_folder(root: Path) -> None:
    """Tell numba its folder, before it is imported, and delete those of earlier states; `root` holds the
    packages. A NUMBA_CACHE_DIR that is set is left alone."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    folder = root / PACKAGES[0] / "__pycache__" / f"kernels-{state_of(root)}"
    os.environ["NUMBA_CACHE_DIR"] = str(folder)  # worker processes take it over
    for other in folder.parent.glob("kernels-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def state_of(root: Path) -> str:
    """12 hex digits that change with any source that mentions numba."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            text = path.read_bytes()
            if b"numba" in text:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + text)
    return digest.hexdigest()[:12]
