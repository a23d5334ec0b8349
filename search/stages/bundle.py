"""The bundle stage: export what ships. All that it needs lies in the run directory, so that `search.export` can do the
same for another rule without Ray, images or labels."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.readme import RunFacts
from analysis.ensembling.result import EnsembleResult, MemberForm
from search.engine.study_file import open_study
from search.observers.trial_row import study_rows
from search.run_dir import RunDir, read_json
from search.stages.stage import Context
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.models.weights_file import BEST_WEIGHTS, REFIT_WEIGHTS, fold_weights


class _Data(BaseModel):
    """The part of data.json that goes into a bundle."""

    name: str
    fingerprint: str
    split_fingerprint: str
    licences: tuple[str, ...] | None = None  # absent from runs of before there was `export`
    flip_pairs: tuple[tuple[int, int], ...] = ()
    train: tuple[str, ...]


class _Run(BaseModel):
    """The part of run.json that goes into a bundle."""

    command: tuple[str, ...] = ()


def run(context: Context) -> None:
    """Write bundle/: the rule that the verdict chose, with the weights of its members."""
    folder = context.run
    ensemble = EnsembleResult.read(folder.ensemble_json)
    export(facts_of(folder), ensemble, weights_of(folder, ensemble), folder.bundle, ensemble_dir=folder.root)


def facts_of(run: RunDir) -> BundleFacts:
    """What a bundle says of the data, from data.json; for an older run from its card too. Raises ValueError where
    either is broken, or the card's data are others by now."""
    raw = read_json(run.data_json)
    try:
        data = _Data.model_validate(raw)
        made = RunFacts(_Run.model_validate(read_json(run.run_json)).command, len(data.train))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{run.data_json} and {run.run_json.name} must describe the run and its data, got {where}: {first['msg']}; "
            "restore them or start a new run"
        ) from error
    if data.licences is not None:
        return BundleFacts(data.name, data.fingerprint, data.split_fingerprint, data.licences, data.flip_pairs, made)
    index = read(read_card(Path(raw["card"])))
    if index.fingerprint != data.fingerprint:
        raise ValueError(
            f"the data of the run must be those that it began with ({data.fingerprint}), got {index.fingerprint} from "
            f"{raw['card']}; restore the files"
        )
    return BundleFacts(index.name, index.fingerprint, data.split_fingerprint, index.licences, index.flip_pairs, made)


def weights_of(run: RunDir, ensemble: EnsembleResult, form: MemberForm | None = None) -> dict[str, tuple[Path, ...]]:
    """Trial -> the files of its weights, one per network, of every member in this form (None: the one that was judged);
    whether they are there is not looked at.

    Raises ValueError for a name that would lead out of the run directory, and a broken study.
    """
    names = [member.trial for member in ensemble.members]
    for name in names:
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{run.ensemble_json}: a member must be named like a folder, got {name!r}; restore it")
    folds = [fold_weights(fold) for fold in range(ensemble.fitted_on.folds)]
    if folds and (form or ensemble.form) == "refit":
        folds = [REFIT_WEIGHTS]
    if folds:
        return {name: tuple(run.fold_models(name) / fold for fold in folds) for name in names}
    rows = study_rows(open_study(run.study_db), run.root)
    checkpoints = {row.trial: Path(row.checkpoint) for row in rows if row.checkpoint}
    return {name: (checkpoints.get(name, run.soups / name) / BEST_WEIGHTS,) for name in names}
