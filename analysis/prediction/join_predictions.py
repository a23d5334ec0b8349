"""A submission from label maps that are there already: the PNGs of `predict`, by the bundle that is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.bundle.manifest import MANIFEST, read_manifest, sha256_of
from analysis.prediction.competition_csv import expected_names, write_submission
from analysis.prediction.job import CsvLayout, Format
from analysis.prediction.restart import STAMP, read_stamp
from analysis.prediction.writers import CSV_NAME, Label, mirrored, read_png, writable


def submission_of_folder(predictions: Path, bundle: Path, out: Path, layout: CsvLayout, expected: Path) -> Path:
    """Write OUT/submission.csv with the rows that `expected` names; returns its path.

    Raises ValueError (BundleError, DataProblems) where the folder is none of this bundle's PNGs, or an image lacks
    one.
    """
    manifest, names = read_manifest(bundle), expected_names(expected, layout)
    stamp = read_stamp(predictions / STAMP)
    if stamp.output_format != Format.png or stamp.bundle_sha256 != sha256_of(bundle / MANIFEST):
        raise ValueError(
            f"--predictions must be a folder of `predict --format png` by {bundle}, got {predictions}, of the format "
            f"{stamp.output_format} by the bundle {stamp.bundle_sha256[:12]}...; predict again, or name that bundle"
        )

    def label_of(name: str) -> Label:
        return read_png(mirrored(predictions, name, ".png"))

    path = out / CSV_NAME
    with writable(out):
        write_submission(path, _finished(names, predictions), label_of, layout, (len(manifest.classes), names))
    return path


def _finished(names: Sequence[str], predictions: Path) -> list[str]:
    return [name for name in names if mirrored(predictions, name, ".png").is_file()]
