"""Reads two finished runs for one page that compares them: their files alone, no image.

The difference of their scores is paired where both judged the same images of the same data: then both runs' counts are
resampled alike, by whole groups where the card names groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.ensembling.bootstrap import bootstrap_draws, class_gains, gain, resample
from analysis.ensembling.read_confusions import Scoring, read_confusions
from analysis.ensembling.result import EnsembleResult
from analysis.report.comparison import Comparison, Paired, Side
from analysis.search_quality.noise_floor import read_noise_floor
from search.engine.study_file import open_study
from search.observers.trial_row import TrialRow, study_rows
from search.run_dir import RunDir, read_json
from search.space.options import Options
from search.space.space import load_space
from search.space.yaml_format import parse_yaml
from search.stages import report_facts
from trainables.data.card import read_card
from trainables.data.reader import read


def read_comparison(a: RunDir, b: RunDir) -> Comparison:
    """Raises ValueError where the runs' classes differ, or a file of one is broken."""
    names = [run.root.name for run in (a, b)]
    if names[0] == names[1]:
        names = [f"{run.root.parent.name}/{run.root.name}" for run in (a, b)]
    sides = [_side(run, name) for run, name in zip((a, b), names, strict=True)]
    classes = [side.ensemble.classes for side in sides]
    if classes[0] != classes[1]:
        strange = sorted(set(classes[0]) ^ set(classes[1])) or ["their order"]
        raise ValueError(
            f"two runs can be compared where their classes are the same, got others in {a.root} and {b.root} "
            f"({', '.join(strange[:3])}); compare runs of one data set"
        )
    options = load_space(str(a.space_yaml), profile=None, overrides=()).options
    ensembles = [side.ensemble for side in sides]
    holdout, crossfit = (pair((a, b), ensembles, scoring, options) for scoring in ("holdout", "val_crossfit"))
    return Comparison(sides[0], sides[1], holdout, crossfit)


def pair(
    runs: tuple[RunDir, RunDir], ensembles: Sequence[EnsembleResult], scoring: Scoring, options: Options
) -> Paired:
    """What the second run's shipped rule gains over the first's, on the images of this scoring."""
    records = [read_json(run.run_json) for run in runs]
    shipped = [ensemble.shipped.name for ensemble in ensembles]
    found = [read_confusions(run.confusions, scoring, (rule,)) for run, rule in zip(runs, shipped, strict=True)]
    (ids, counts_a), (others, counts_b) = found
    if records[0]["data_fingerprint"] != records[1]["data_fingerprint"]:
        return Paired(why_not="their data differ, so no difference can be told image by image")
    if sorted(ids) != sorted(others):
        return Paired(why_not="they were scored on different images, so no difference can be told image by image")
    row = {image_id: n for n, image_id in enumerate(others)}
    matched = counts_b[shipped[1]][[row[image_id] for image_id in ids]]
    grouped = ensembles[0].unit == "group"
    groups = _groups(records[0], ids) if grouped else list(ids)
    if isinstance(groups, str):
        return Paired(why_not=groups)
    draws = bootstrap_draws(groups, grouped, options.ensemble.resamples, options.seed)
    first, second = resample(counts_a[shipped[0]], draws), resample(matched, draws)
    return Paired(gain(second, first), class_gains(second, first), len(ids))


def _groups(record: Mapping[str, Any], ids: Sequence[str]) -> list[str] | str:
    """Each image's group, which only the card names; or why that cannot be had."""
    try:
        index = read(read_card(Path(record["card"])))
    except (OSError, ValueError) as error:
        return f"the card that names the groups of images cannot be read ({str(error).splitlines()[0]})"
    known = index.by_id()
    if index.fingerprint != record["data_fingerprint"] or not set(ids) <= set(known):
        return f"the groups of images cannot be told, as the data of {record['card']} are others by now"
    return [known[image_id].group for image_id in ids]


def _side(run: RunDir, name: str) -> Side:
    record, ensemble = read_json(run.run_json), EnsembleResult.read(run.ensemble_json)
    rows = study_rows(open_study(run.study_db), run.root)
    origin = report_facts.origin_of(run, record, ensemble, rows)
    strongest = origin.recipes[0] if origin.recipes else None
    recipe = parse_yaml(strongest.recipe, strongest.trial) if strongest else {}
    return Side(
        name=name,
        started=record["started"],
        space=record["space"] + (f" ({record['profile']} profile)" if record["profile"] else ""),
        ensemble=ensemble,
        origin=origin,
        families=report_facts.families(rows, ensemble, read_noise_floor(run.noise_json)),
        num_trials=len(rows),
        epochs=sum(row.epochs for row in rows),
        best_val=max((row.best_miou for row in rows if row.best_miou is not None), default=None),
        progress=progress(rows),
        settings=flat(parse_yaml(run.space_yaml.read_text(encoding="utf-8"), str(run.space_yaml))),
        recipe=flat(recipe),
    )


def progress(rows: Sequence[TrialRow]) -> list[tuple[float, float]]:
    """Device hours spent by the end of each scored trial, in the order of their numbers, and the best mIoU by then."""
    spent_h, best, points = 0.0, 0.0, []
    for row in sorted(rows, key=lambda one: one.number):
        spent_h += row.device_s / 3600
        if row.best_miou is not None:
            best = max(best, row.best_miou)
            points.append((spent_h, best))
    return points


def flat(tree: Any, above: str = "") -> dict[str, str]:
    """A tree of mappings as 'key.key' -> its value as text."""
    if not isinstance(tree, Mapping):
        return {above: str(tree)}
    below = (flat(value, f"{above}.{name}".lstrip(".")) for name, value in tree.items())
    return {key: text for part in below for key, text in part.items()}
