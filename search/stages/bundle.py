"""The bundle stage: export what ships."""

from __future__ import annotations

from analysis.bundle.export import BundleFacts, export
from analysis.ensembling.result import EnsembleResult
from search.stages.folds import chosen_candidates
from search.stages.stage import Context


def run(context: Context) -> None:
    """Write bundle/: the rule that the verdict chose, with the weights of its members."""
    folder, index = context.run, context.data.index
    facts = BundleFacts(index.name, index.fingerprint, context.data.split.fingerprint, index.licences, index.flip_pairs)
    weights = {c.trial: c.weights for c in chosen_candidates(context)}
    export(facts, EnsembleResult.read(folder.ensemble_json), weights, folder.bundle, ensemble_dir=folder.root)
