"""Event files for TensorBoard: a folder per trial under RUN/tensorboard, and one for what the run came to.

Written by tensorboardX, which comes with Ray Tune; neither TensorBoard nor torch is needed to write them.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import override

from search.observers.replay import ReplayingTracker
from search.observers.search_info import Outcome, SearchInfo
from search.observers.trial_row import TrialRow

FLUSH_S = 10
ENDED = "ended"  # scalar that marks a trial's end
WHOLE_SEARCH = "search"  # folder of the run's outcome


class TensorboardTracker(ReplayingTracker):
    """Scalars of every epoch, and hyper-parameters with the best mIoU (TensorBoard's parallel coordinates)."""

    def __init__(self, info: SearchInfo) -> None:
        super().__init__(info)
        self.root = info.run.tensorboard
        self.writers: dict[str, Any] = {}
        self.ended: set[str] = set()

    @override
    def open(self) -> None:
        self.ended = {
            folder.name for folder in self.root.glob("*") if ENDED in {tag for _, tag, _ in scalars_in(folder)}
        }

    @override
    def recorded(self, trial: str) -> set[int]:
        return {step for step, tag, _ in scalars_in(self.root / trial) if tag == "val/miou"}

    @override
    def has_ended(self, trial: str) -> bool:
        return trial in self.ended

    @override
    def start(self, row: TrialRow) -> None:
        from tensorboardX import SummaryWriter

        if row.trial not in self.writers:
            folder = self.root / row.trial
            number = len(list(folder.glob("*")))  # a second writer within a second would take the first one's name
            self.writers[row.trial] = SummaryWriter(str(folder), flush_secs=FLUSH_S, filename_suffix=f".{number:03d}")

    @override
    def record(self, row: TrialRow, epoch: int, values: Mapping[str, float], at_s: float | None) -> None:
        for name, value in values.items():
            self.writers[row.trial].add_scalar(name, value, epoch, walltime=at_s)

    @override
    def finish(self, row: TrialRow) -> None:
        from tensorboardX.summary import hparams

        self.start(row)
        writer = self.writers.pop(row.trial)
        asked = {"family": row.family, "backbone": row.backbone, "head": row.head, "state": row.state, **row.params}
        plain = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in asked.items()}
        scores = {} if row.best_miou is None else {"best_miou": row.best_miou}
        for summary in hparams(plain, scores):
            writer.file_writer.add_summary(summary)
        for name, value in scores.items():
            writer.add_scalar(name, value, row.best_epoch)
        if row.error:
            writer.add_text("error", row.error)
        writer.add_scalar(ENDED, 1.0, row.epochs)
        writer.close()
        self.ended.add(row.trial)

    @override
    def finished(self, outcome: Outcome) -> None:
        from tensorboardX import SummaryWriter

        folder = self.root / WHOLE_SEARCH
        shutil.rmtree(folder, ignore_errors=True)  # told again where a finished run is resumed
        with SummaryWriter(str(folder)) as writer:
            writer.add_text("verdict", f"{outcome.verdict}\n\nbundle: {outcome.bundle}\n\nreport: {outcome.report}")
            writer.add_text("rules", markdown(outcome.rules))
            for path, caption in outcome.samples.items():
                with Image.open(path) as picture:
                    writer.add_image(f"samples/{path.stem}", np.asarray(picture), dataformats="HWC")
                writer.add_text(f"samples/{path.stem}", caption)
            if self.info.run.space_yaml.is_file():
                space = self.info.run.space_yaml.read_text(encoding="utf-8")
                writer.add_text("space", "".join(f"    {line}\n" for line in space.splitlines()))

    @override
    def end(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table; empty without rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value).replace("|", "\\|")


def scalars_in(folder: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of every scalar in a folder's event files, as they were written. What a kill cut short is left
    out."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        for data in records(path.read_bytes()):
            event = Event()
            event.ParseFromString(data)
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    yield event.step, value.tag, value.simple_value


def records(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        end = place + 12 + length
        if end + 4 > len(content):
            return
        yield content[place + 12 : end]
        place = end + 4
