"""From the command line's values to a run that is ready to start: everything that can be refused is refused here.

Order: the space, the data, the run directory, only then Ray; so a mistake costs a second, not a GPU.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.run_arguments import RunArguments, check_storage
from search.run_dir import RunDir, clear_unfinished, uri_of
from search.run_place import Place, hold_existing, hold_new
from search.run_record import (
    begin,
    changed_versions,
    check_same,
    check_same_arguments,
    claim,
    has_begun,
    read_record,
)
from search.space.problems import SpaceProblems
from search.space.space import Space, load_space, profile_names
from search.stages.stage import Stage
from search.stop_signals import StopSignals, stop_signals

if TYPE_CHECKING:
    from search.engine.past_trials import PastRun
    from search.stages import stage
    from search.stages.run_data import Data
    from trainables.data.cache import Cache
    from trainables.data.index import SegIndex

CPU_PROFILE = "cpu"
SYNTHETIC_IMAGES = 240
SYNTHETIC_PX = 128
Say = Callable[[str], None]


class Interrupted(RuntimeError):
    """The run was stopped by a signal; everything finished is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class _Claimed:
    """A run directory that this process holds, and what is known of the run so far."""

    place: Place
    asked: RunArguments  # of a resumed run: what was asked at first
    record: dict[str, Any] | None  # run.json of a run that has begun, else None
    card: Path | None

    @property
    def run(self) -> RunDir:
        return self.place.run

    def space(self) -> Space | None:
        """The space of a run that has begun, as it was resolved then: the file that it came from may have changed."""
        if self.record is None:
            return None
        space = load_space(str(self.run.space_yaml), profile=None, overrides=())
        return replace(space, name=self.record["space"], profile=self.record["profile"])


def start(asked: RunArguments, *, now: Callable[[], datetime], argv: tuple[str, ...], say: Say) -> None:
    """Run what was asked to its end.

    Raises ValueError (rule, value, remedy) for everything that the user can mend, before a trial starts, and
    `Interrupted` where a signal stopped it.
    """
    check_storage(asked, os.environ)
    if asked.trackers:
        from search.observers.trackers import check_trackers

        check_trackers(asked.trackers)
    with ExitStack() as held:
        signals = held.enter_context(_interruptions("stopped before anything was kept; start it again"))
        claimed = _resumed(asked, argv, signals, held, say) if asked.resume else None
        spaces = _spaces(asked, claimed)
        if asked.run_dir and not claimed and uri_of(asked.run_dir):
            claimed = _new(asked, argv, now(), signals, held, say)  # may it be written? before data are decoded
        card = (claimed and claimed.card) or _card(asked, say)

        say("loading PyTorch and Ray")
        from search.cluster.connection import connected  # heavy imports only now, after the space was checked
        from search.cluster.run_files import files_of
        from search.engine import warm_start
        from search.stages import run_data, stage

        index, cache = run_data.read_data(card, asked.cache_dir, say)
        if claimed is not None and claimed.record is not None:
            check_same(claimed.record, "data", index.fingerprint)
        earlier = _earlier_runs(asked, claimed, index.fingerprint)
        if claimed is None:
            claimed = _new(asked, argv, now(), signals, held, say)
        run = claimed.run
        say(f"run directory: {claimed.place}")
        if claimed.record is None:
            claim(run, claimed.asked, card, index.fingerprint, now(), argv)
        with connected(asked.address, dashboard=asked.dashboard, say=say) as num_gpus:
            signals.install()
            space = claimed.space() or _chosen(claimed.asked, spaces, num_gpus, say)
            if claimed.record is None:
                warm_start.prepare(run, space, earlier, say)
            with files_of(run, asked.address, asked.cache_dir, at_uri=claimed.place.is_remote, say=say) as files:
                data = _checked_data(claimed, space, card, index, cache, asked.cache_dir, say)
                _run_stages(claimed, stage.Context(run, space, data, say, now, claimed.asked.trackers, files))


def _run_stages(claimed: _Claimed, context: stage.Context) -> None:
    from search import pipeline
    from search.stages import outcome, report

    until, say = claimed.asked.until, context.say
    pipeline.run_all(context, until)
    if until is Stage.report:
        outcome.tell_trackers(context)
        report.summary(claimed.run, say)
    else:
        say(f"stopped after {until}, as asked; go on with: {claimed.place.resume}")


def _checked_data(
    claimed: _Claimed, space: Space, card: Path, index: SegIndex, cache: Cache, cache_root: Path, say: Say
) -> Data:
    """The data, split as the space has it, after everything about them that can be refused; the run has then begun."""
    from search.observers.trackers import check_trackers
    from search.stages import run_data
    from search.students import pseudo_stage

    check_trackers(space.options.trackers)
    for line in space.warnings():
        say(f"warning: {line}")
    sizes = [(image.height, image.width) for image in index.images if image.role == "train"]
    space.check_data(sizes, index.num_classes)
    run_data.check_turns(card, space.options)
    data = run_data.Data(index, run_data.split_data(index, cache, space.options, say), cache, cache_root)
    if claimed.record is None:
        pseudo_stage.check(space, data)
        begin(claimed.run, space, data, run_data.describe_data(data, card))
    else:
        check_same(claimed.record, "split", data.split.fingerprint)
    return data


@contextmanager
def _interruptions(message: str) -> Iterator[StopSignals]:
    """Raises Interrupted for SIGINT and SIGTERM."""
    signals = None
    try:
        with stop_signals() as signals:
            yield signals
    except KeyboardInterrupt:
        raise Interrupted(message, signals.exit_code if signals else 130) from None


@contextmanager
def _kept(claimed: _Claimed, signals: StopSignals) -> Iterator[None]:
    """Says how to go on with the run where a signal, a full disk or the loss of its lock ends it."""
    root, stopped = claimed.run.root, f"stopped; go on with: {claimed.place.resume}"
    signals.last_words = stopped
    try:
        yield
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        if claimed.place.lease.compromise is not None:
            raise ValueError(
                f"a run must hold its directory to the end, got {root}, whose lock was lost "
                f"({claimed.place.lease.compromise.reason}); see that no other process works on it, then go on with: "
                f"{claimed.place.resume}"
            ) from error
        if signals.caused(error):
            raise Interrupted(stopped, signals.exit_code) from None
        if not is_disk_full(error):
            raise
        free_mib = shutil.disk_usage(root).free / 2**20
        raise ValueError(
            f"the run needs room on the disk of {root}, got {free_mib:.0f} MiB free; free some, then go on with: "
            f"{claimed.place.resume}"
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, however SQLite, Ray or a tracker dressed it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in ("No space left on device", "disk is full")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _spaces(asked: RunArguments, claimed: _Claimed | None) -> dict[str | None, Space | SpaceProblems]:
    """The space with each profile that this run might take, checked before Ray starts; none where the run has begun.

    Which is taken is known only with the cluster: so problems of one alone are kept with it, and those of all are
    raised here.
    """
    if claimed is not None:
        asked = claimed.asked
    if claimed is not None and claimed.record is not None:
        return {}
    if asked.space is None:
        raise ValueError("a run needs a space, got none; give --space convnext.yaml, or --resume DIR")
    spaces: dict[str | None, Space | SpaceProblems] = {}
    may_take_cpu = asked.profile is None and CPU_PROFILE in profile_names(asked.space)
    for profile in (asked.profile, CPU_PROFILE) if may_take_cpu else (asked.profile,):
        try:
            spaces[profile] = load_space(asked.space, profile=profile, overrides=asked.assignments)
        except SpaceProblems as problems:
            spaces[profile] = problems
    broken = [space for space in spaces.values() if isinstance(space, SpaceProblems)]
    if len(broken) == len(spaces):
        raise broken[-1]
    return spaces


def _chosen(asked: RunArguments, spaces: dict[str | None, Space | SpaceProblems], num_gpus: float, say: Say) -> Space:
    """The space with the profile that was asked for, or with 'cpu' where there is one and no GPU."""
    profile = asked.profile
    if profile is None and num_gpus == 0 and CPU_PROFILE in spaces:
        say("no GPU in this cluster: taking the space's 'cpu' profile (choose with --profile)")
        profile = CPU_PROFILE
    space = spaces[profile]
    if isinstance(space, SpaceProblems):
        raise space
    return space


def _earlier_runs(asked: RunArguments, claimed: _Claimed | None, fingerprint: str) -> list[PastRun]:
    """The runs of `--warm-start`; none where this run has begun, which keeps their trials itself."""
    from search.engine.warm_start import read_earlier

    roots = asked.warm_start if claimed is None else claimed.asked.warm_start
    return [] if claimed is not None and claimed.record is not None else read_earlier(roots, fingerprint)


def _card(asked: RunArguments, say: Say) -> Path:
    """The data card that was asked for, or that of the synthetic set, drawn on first use."""
    if asked.data:
        return asked.data.expanduser().resolve()
    from trainables.data.synthetic.dataset import write_synthetic

    say(f"no --data: using the built-in synthetic trash scenes ({SYNTHETIC_IMAGES} images of {SYNTHETIC_PX} px)")
    root = asked.cache_dir / f"synthetic-{SYNTHETIC_IMAGES}-{SYNTHETIC_PX}"
    return write_synthetic(root, num_images=SYNTHETIC_IMAGES, image_px=SYNTHETIC_PX, seed=0)


def _resumed(asked: RunArguments, argv: tuple[str, ...], signals: StopSignals, held: ExitStack, say: Say) -> _Claimed:
    """The run to go on with; what was typed again must agree with what was asked at first."""
    place = hold_existing(asked, argv, held, say)
    clear_unfinished(place.run)
    record = read_record(place.run)
    check_same_arguments(asked, record)
    changed = changed_versions(record)
    if changed:
        say(
            f"warning: the run was started with other package versions ({'; '.join(changed)}): what follows may differ "
            "from what they would have given; install those to repeat them exactly"
        )
    first = record["asked"]
    at_first = replace(
        asked,
        space=first["space"],
        assignments=tuple(first["assignments"]),
        profile=first["profile"],
        data=Path(first["data"]) if first["data"] else None,
        warm_start=tuple(map(Path, first.get("warm_start", ()))),  # earlier versions had none
    )
    begun = record if has_begun(record) else None
    claimed = _Claimed(place, at_first, begun, Path(record["card"]))
    held.enter_context(_kept(claimed, signals))
    return claimed


def _new(
    asked: RunArguments, argv: tuple[str, ...], now: datetime, signals: StopSignals, held: ExitStack, say: Say
) -> _Claimed:
    """A directory of its own for a new run."""
    claimed = _Claimed(hold_new(asked, argv, now, held, say), asked, None, None)
    held.enter_context(_kept(claimed, signals))
    return claimed
