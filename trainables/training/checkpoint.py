"""The files of a checkpoint: state.pt (everything to resume) and safetensors (weights alone), whole or absent.

`state.pt` is read with weights_only=True: no pickled code is ever run.
"""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainables.data.index import SegIndex, Split
from trainables.files import write_atomically, write_text
from trainables.models.weights_file import BEST_JSON, BEST_WEIGHTS, save_weights
from trainables.plain_json import parse_json
from trainables.recipe.recipe import Recipe

STATE_NAME = "state.pt"
LAST = "last"  # the folder of the last finished epoch's state
SNAPSHOTS = "snapshot-*.safetensors"  # the evaluated weights of a trial's last epochs


def save_state(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write `state` (tensors, numbers, texts, and lists, tuples and dictionaries of them) to folder/state.pt."""
    path = folder / STATE_NAME
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))
    return path


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, all tensors on the CPU. ValueError where the file is absent or cut short."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise ValueError(f"a checkpoint folder must hold {STATE_NAME}, got {folder}; give the folder of an epoch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk's fault; EINVAL is torch's reader seeking before the start of a short file
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({path.stat().st_size} bytes: cut short, or not written by "
            "save_state); delete it and resume from an earlier one"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(state).__name__}; it is not a trial's checkpoint")
    return state


def about_best(recipe: Recipe, index: SegIndex, split: Split, *, miou: float, epoch: int) -> dict[str, Any]:
    """The contents of best.json: the recipe and data that weights come from, and their score on val."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(index.classes),
        "miou": miou,
        "epoch": epoch,
        "data_fingerprint": index.fingerprint,
        "split_fingerprint": split.fingerprint,
    }


def save_best(folder: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write best.safetensors, and best.json as `about_best` gives it."""
    save_weights(folder / BEST_WEIGHTS, weights)
    write_text(folder / BEST_JSON, json.dumps(about, indent=1) + "\n")


def save_snapshot(folder: Path, weights: Mapping[str, Tensor], *, epoch: int, miou: float, keep: int) -> None:
    """Write the weights of an epoch, and remove those of all but the last `keep`. Their names sort as they came."""
    # one entry: safetensors writes several in no fixed order, and equal trials shall give equal bytes
    score = None if math.isnan(miou) else miou
    about = {"snapshot": json.dumps({"epoch": epoch, "miou": score})}
    save_weights(folder / SNAPSHOTS.replace("*", f"{epoch:04d}"), weights, about)
    for older in snapshots(folder)[:-keep]:
        older.unlink()


def read_snapshot(path: Path) -> tuple[int, float]:
    """The epoch and the val mIoU of a snapshot, NaN of a trial without val. ValueError where the file was cut short or
    is not a snapshot."""
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call, unused-ignore]
            about = parse_json((file.metadata() or {})["snapshot"])
        return int(about["epoch"]), float("nan" if about["miou"] is None else about["miou"])
    except (SafetensorError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read as a snapshot ({error}); it was cut short; delete it") from error


def snapshots(folder: Path) -> list[Path]:
    """The weights of the last epochs under `folder`, oldest first."""
    return sorted(folder.glob(SNAPSHOTS))


def epoch_dir(out_dir: Path, epoch: int) -> Path:
    """A fresh folder under `out_dir` that holds its best weights and snapshots so far, if there are any."""
    folder = out_dir / f"epoch-{epoch:04d}"
    if folder.exists():
        shutil.rmtree(folder)  # of a run that was cut off
    folder.mkdir()
    take_weights(out_dir, folder)
    return folder


def newest_epoch(out_dir: Path) -> Path | None:
    """The folder of the last epoch under `out_dir` that can be resumed from; None where there is none."""
    return max((path.parent for path in out_dir.glob(f"epoch-*/{STATE_NAME}")), default=None)


def drop_older_epochs(folder: Path) -> None:
    """Remove the folders of all epochs before this one."""
    for older in folder.parent.glob("epoch-*"):
        if older.name < folder.name:
            shutil.rmtree(older)


def take_weights(source: Path | None, target: Path) -> None:
    """Give `target` the best weights and the snapshots of `source`, and no others; none at all without a `source`.

    They get a second name, or a copy where the file system cannot. Better weights later replace a name and not a
    file's contents, so neither folder changes with the other.
    """
    wanted = {} if source is None else {path.name: path for path in _weights(source)}
    for path in _weights(target):
        if path.name not in wanted:
            path.unlink()
    for name, path in wanted.items():
        write_atomically(target / name, partial(_link_or_copy, path))


def _weights(folder: Path) -> list[Path]:
    best = [folder / BEST_WEIGHTS, folder / BEST_JSON]
    return [*(path for path in best if path.exists()), *snapshots(folder)]


def keep_last(folder: Path, out_dir: Path) -> None:
    """Keep an epoch's state under `out_dir`/last too, where it stays when the owner of `folder` removes that."""
    last = out_dir / LAST
    take_weights(folder, last)
    write_atomically(last / STATE_NAME, partial(_link_or_copy, folder / STATE_NAME))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def random_states() -> dict[str, Any]:
    """Every global random state of this process, as values that `load_state` may read."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put the states of `random_states` back. CUDA states are restored on as many devices as there are here."""
    random.setstate(states["python"])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
