"""A prediction that is started again goes on where it was stopped: the stamp of the settings in the output folder, and
which images are finished.

An image is finished when its file is there, not older than the stamp nor than the image itself. A folder with another
stamp, or with files of other origin under the names to be written, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from analysis.bundle.manifest import MANIFEST, Bundle, sha256_of
from analysis.prediction.inputs import NamedImage
from analysis.prediction.job import CsvLayout, Format
from analysis.prediction.writers import Writer, writable
from trainables.files import remove_unfinished, write_text
from trainables.plain_json import read_object
from trainables.recipe.config import Config

STAMP, LOCK = ".segsearch-predict.json", ".segsearch-predict.lock"
REMEDY = "go on with the old ones, predict anew with --overwrite, or choose another folder"


class Settings(Config):
    """What the pixels of a prediction depend on. The sizes of batches and the number of processes are not among it:
    they move the last bit of a logit at most."""

    format: Literal["segsearch-predict/1"] = "segsearch-predict/1"
    bundle_sha256: str  # of bundle.json, which has that of every weight
    output_format: Format
    device: str  # its kind: cpu, cuda
    half: bool = False
    compiled: bool = False
    tile: tuple[int, float] | None = None
    layout: CsvLayout | None = None  # of the format csv


def bundle_sha256(bundle: Bundle) -> str:
    """Of its manifest, which names the SHA-256 of all other files."""
    return sha256_of(bundle.folder / MANIFEST)


@dataclass(frozen=True)
class OpenedFolder:
    """An output folder that this process holds."""

    stamped_ns: int

    def is_finished(self, image: NamedImage, writer: Writer) -> bool:
        """Whether an earlier run with these settings has written the image as it is now."""
        try:
            written_ns = writer.target(image.name).stat().st_mtime_ns
        except OSError:  # not there; where it cannot be, its writing says why
            return False
        return written_ns >= max(self.stamped_ns, image.file.stat().st_mtime_ns)


@contextmanager
def opened_folder(out: Path, settings: Settings, targets: Iterable[Path], *, overwrite: bool) -> Iterator[OpenedFolder]:
    """Hold `out`, made if absent, for this process; it carries these settings from here on.

    Raises ValueError where it cannot be written, another process predicts into it, or, without `overwrite`, it carries
    other settings, or none beside one of the `targets`.
    """
    lock = FileLock(out / LOCK)
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"--out must be used by one process at a time, got {out}, which another one predicts into; wait for "
                "its end, or choose another folder"
            ) from None
    try:
        stamp = out / STAMP
        if not overwrite and stamp.exists():
            _refuse_other(stamp, settings)
        elif not overwrite:
            _refuse_unstamped(out, targets)
        with writable(out):
            remove_unfinished(out)
            if overwrite or not stamp.exists():
                write_text(stamp, settings.model_dump_json(indent=1) + "\n")
        yield OpenedFolder(stamp.stat().st_mtime_ns)
    finally:
        lock.release()


def _refuse_unstamped(out: Path, targets: Iterable[Path]) -> None:
    there = next((path for path in targets if path.exists()), None)
    if there is not None:
        raise ValueError(
            f"--out must be a new folder, or one of predictions with a {STAMP}, got {out} with "
            f"{there.relative_to(out)}; replace such files with --overwrite, or choose another folder"
        )


def read_stamp(path: Path) -> Settings:
    """Raises ValueError where it is missing, broken, or of another version."""
    try:
        return Settings.model_validate(read_object(path, REMEDY))
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{path} must be a stamp of this version, got {where}: {first['msg']:.200}; {REMEDY}"
        ) from error


def _refuse_other(stamp: Path, settings: Settings) -> None:
    before, now = read_stamp(stamp).model_dump(mode="json"), settings.model_dump(mode="json")
    changed = [f"{key} {_shown(before[key])}, now {_shown(now[key])}" for key in now if before[key] != now[key]]
    if changed:
        raise ValueError(
            f"--out must hold predictions of the same settings, got {stamp.parent} with {'; '.join(changed)}; {REMEDY}"
        )


def _shown(value: object) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 20 else f"{value}"
