"""What may enter the ensemble: the scored trials of a run, and its soups beside or instead of them.

Enters: the study and the soups of a run directory. Leaves: candidates, the best first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from search.engine.study_file import open_study
from search.observers.trial_row import study_rows
from search.run_dir import RunDir
from search.space.options import Ensemble
from trainables.logits.write_logits import Candidate
from trainables.recipe.recipe import Recipe
from trainables.training.soup import Soup, read_soup


def competitors(run: RunDir, options: Ensemble) -> list[Candidate]:
    """The candidates of the ensemble. Raises ValueError where no trial ended with a checkpoint."""
    return choose_of(with_soups(scored_trials(run), read_soups(run.soups), run.soups), options)


def choose_of(trials: Sequence[Candidate], options: Ensemble) -> list[Candidate]:
    return choose(trials, limit=options.candidates, max_per_family=options.max_per_family)


def scored_trials(run: RunDir) -> list[Candidate]:
    """Every trial with a checkpoint. Raises ValueError where there is none."""
    rows = study_rows(open_study(run.study_db))
    trials = [
        Candidate(row.trial, Recipe.model_validate(row.recipe), Path(row.checkpoint), row.best_miou)
        for row in rows
        if row.state in ("COMPLETE", "PRUNED") and row.checkpoint and row.best_miou is not None
    ]
    if not trials:
        errors = {row.error.splitlines()[-1] for row in rows if row.error}
        raise ValueError(
            f"an ensemble needs at least one trial with a score, got none of {len(rows)}; "
            f"see {run.trials_csv}: " + ("; ".join(sorted(errors)) or "no errors were recorded")
        )
    return trials


def read_soups(folder: Path) -> list[Soup]:
    """Every soup that was made, offered or not."""
    found = (read_soup(path) for path in sorted(folder.glob("soup-*")))
    return [soup for soup in found if soup is not None]


def with_soups(trials: Sequence[Candidate], soups: Sequence[Soup], folder: Path) -> list[Candidate]:
    """The trials, and what competes beside or instead of them.

    A soup of one trial's epochs stands in for the trial: the two are nearly one model, and a place and the inference
    for both would buy little. A soup of trials is another model than each of them, and competes.
    """
    by_name = {candidate.trial: candidate for candidate in trials}
    offered = dict(by_name)
    for soup in soups:
        best = by_name.get(soup.best.trial)
        if best is None or not soup.is_offered:
            continue
        names = tuple(one.name for one in soup.ingredients)
        candidate = replace(best, trial=soup.name, checkpoint=folder / soup.name, miou=soup.miou, ingredients=names)
        of_one = {one.trial for one in soup.ingredients} == {best.trial}
        offered[best.trial if of_one else soup.name] = candidate
    return list(offered.values())


def choose(trials: Sequence[Candidate], *, limit: int, max_per_family: int) -> list[Candidate]:
    """The best `limit` trials, best first, at most `max_per_family` of one backbone family."""
    taken: list[Candidate] = []
    families: Counter[str] = Counter()
    for candidate in sorted(trials, key=lambda c: (-c.miou, c.trial)):
        if len(taken) < limit and families[candidate.recipe.family] < max_per_family:
            taken.append(candidate)
            families[candidate.recipe.family] += 1
    return taken
