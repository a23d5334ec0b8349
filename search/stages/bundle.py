"""The bundle stage: export what ships."""

from __future__ import annotations

from analysis.bundle.export import BundleFacts, export
from search.run_dir import read_json
from search.stages.logits import chosen_candidates
from search.stages.stage import Context


def run(context: Context) -> None:
    """Write bundle/."""
    folder, index = context.run, context.data.index
    facts = BundleFacts(index.name, index.fingerprint, context.data.split.fingerprint, index.licences)
    checkpoints = {c.trial: c.checkpoint for c in chosen_candidates(context)}
    export(facts, read_json(folder.ensemble_json), checkpoints, folder.bundle)
