"""Chooses the candidates of the ensemble: a run's scored trials, and its soups beside or instead of them."""

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
    """The candidates of the ensemble, best first. Raises ValueError where no trial ended with a checkpoint."""
    return choose_of(with_soups(scored_trials(run), read_soups(run.soups), run.soups), options)


def choose_of(trials: Sequence[Candidate], options: Ensemble) -> list[Candidate]:
    """`choose` with the limits of the space's options."""
    return choose(trials, limit=options.candidates, max_per_family=options.max_per_family)


def scored_trials(run: RunDir) -> list[Candidate]:
    """Every trial with a checkpoint. Raises ValueError where there is none."""
    rows = study_rows(open_study(run.study_db), run.root)
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
    """Every soup in the folder, whether or not it is better than its best ingredient."""
    found = (read_soup(path) for path in sorted(folder.glob("soup-*")))
    return [soup for soup in found if soup is not None]


def with_soups(trials: Sequence[Candidate], soups: Sequence[Soup], folder: Path) -> list[Candidate]:
    """Adds the soups that are better than their best ingredient.

    A soup of one trial's epochs replaces the trial: the two are nearly the same model, and inference with both would
    gain little. A soup of several trials is a model of its own and competes with them.
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
