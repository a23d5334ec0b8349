"""Ship another rule of a finished run than the verdict's, marked as the user's choice.

    segsearch export --run RUN [--rule soft_vote] [--form refit] [--out DIR]

Written is a bundle, RUN/bundle-<rule> or RUN/bundle-<rule>-<form> by default, from the files of the run directory
alone: no cluster is started and no image is read. The verdict stays as it is; bundle, report and `segsearch predict`
say that the user chose otherwise. The verdict's own rule gives what the bundle stage wrote, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from search.run_dir import RunDir, existing_run_dir, read_json, write_json
from search.run_lock import hold
from search.run_record import read_record
from search.stages.stage import Stage
from trainables.command import DebugOption, errors_to_exit, new_app, run_command

if TYPE_CHECKING:
    from analysis.ensembling.result import EnsembleResult, RuleResult

EXPORTS = "exports"  # the key of run.json that lists bundles of rules that users chose

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a run whose ensemble stage is done.")],
    rule: Annotated[
        str | None, typer.Option(help="The rule to ship, by default the verdict's; a wrong name lists all of them.")
    ] = None,
    form: Annotated[
        Literal["mean", "refit"] | None, typer.Option(help="With folds, of the verdict's rule: what its members are.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; default: RUN/bundle-<rule>.")] = None,
    debug: DebugOption = False,
) -> None:
    """Ship another rule of a finished run than the verdict's, marked as the user's choice."""
    with errors_to_exit(debug=debug):
        lines = export_rule(run, rule, form, out, at=datetime.now().astimezone().isoformat(timespec="seconds"))
    typer.echo("\n".join(lines))


def export_rule(
    root: Path, name: str | None, form: Literal["mean", "refit"] | None, out: Path | None, *, at: str
) -> list[str]:
    """Write the bundle of a rule and note it in run.json and report.html; returns what to say.

    Raises ValueError where `root` is no run with a verdict, another process works on it, it has no such rule or did not
    judge the rule in this form, weights of the rule's members are gone, or `out` may not be replaced.
    """
    run = existing_run_dir(root, "--run")
    said: list[str] = []
    with hold(run.root, said.append):
        _check_judged(run)
        from analysis.bundle.export import export, user_choice
        from analysis.ensembling.result import EnsembleResult
        from search.stages.bundle import facts_of, weights_of

        ensemble = EnsembleResult.read(run.ensemble_json)
        chosen = _rule(ensemble, name or ensemble.verdict.rule)
        if form:
            chosen = _in_form(ensemble, chosen, form)
        choice = user_choice(ensemble, chosen, form)
        folder = f"{chosen.name}-{form}" if form else chosen.name
        target = (out.expanduser() if out else run.bundle_of(folder)).resolve()
        replaced = _check_target(run, target, is_verdicts=choice is None)
        weights = weights_of(run, ensemble, form)
        _check_weights(run, ensemble, chosen, weights)
        export(facts_of(run), ensemble, weights, target, chosen, form, ensemble_dir=run.root)
        if choice is not None:
            noted = {"at": at, "rule": chosen.name, "out": str(target), "said": choice.sentence}
            said += [choice.sentence, *_note(run, noted)]
    return [*said, f"the verdict: {ensemble.verdict.sentence}", f"bundle{replaced}: {target}"]


def _check_judged(run: RunDir) -> None:
    if not read_record(run)["stages"].get(Stage.ensemble):
        raise ValueError(
            f"a rule can be exported once the ensemble stage is done, got {run.root} without it; finish it first: "
            f"{run_command()} --resume {run.root}"
        )


def _rule(ensemble: EnsembleResult, name: str) -> RuleResult:
    from analysis.bundle.readme import write_score

    found = {rule.name: rule for rule in ensemble.rules}
    if name not in found:
        listed = "\n".join(f"  {rule.name}: {write_score(rule.holdout)}" for rule in ensemble.rules)
        raise ValueError(
            f"--rule must be one of the run's rules, got {name!r}; choose one, here with its mIoU on the hold-out "
            f"(the verdict's is {ensemble.verdict.rule}):\n{listed}"
        )
    return found[name]


def _in_form(ensemble: EnsembleResult, chosen: RuleResult, form: Literal["mean", "refit"]) -> RuleResult:
    if chosen.name != ensemble.verdict.rule and form != ensemble.form:
        raise ValueError(
            f"--form {form} must go with the verdict's rule, {ensemble.verdict.rule}, the only one that was judged in "
            f"it, got --rule {chosen.name}; leave one of the two out"
        )
    return ensemble.shipped_as(form) if chosen.name == ensemble.verdict.rule else chosen


def _check_target(run: RunDir, target: Path, *, is_verdicts: bool) -> str:
    """', replaced' where the folder holds an older bundle. Raises ValueError where it must not be replaced."""
    from analysis.bundle.export import foreign_files

    if target == run.bundle.resolve() and not is_verdicts:
        raise ValueError(
            f"--out must leave the verdict's own bundle as it is, got {target}; choose another folder, or leave --out "
            "out"
        )
    if not target.exists():
        return ""
    foreign = foreign_files(target)
    if foreign:
        raise ValueError(
            f"--out must be a new folder, or one that holds a bundle and nothing else, got {target} with "
            f"{', '.join(foreign[:3])}; choose another"
        )
    return ", replaced"


def _check_weights(
    run: RunDir, ensemble: EnsembleResult, chosen: RuleResult, weights: Mapping[str, Sequence[Path]]
) -> None:
    """Raises ValueError where weights of the rule's members are gone, with the rules whose weights are there."""
    gone = {trial: [path for path in paths if not path.is_file()] for trial, paths in weights.items()}
    lacking = {r.name: [m for m in _members(ensemble, r) if gone[m]] for r in ensemble.rules}
    if not lacking[chosen.name]:
        return
    paths = [path for trial in lacking[chosen.name] for path in gone[trial]]
    # pruning leaves what describes the weights, and touches no trial's checkpoint
    pruned = [p for p in paths if p.with_suffix(".json").is_file() and not p.is_relative_to(run.tune)]
    whole = [name for name, trials in lacking.items() if not trials]
    raise ValueError(
        f"{chosen.name} needs the weights of {', '.join(_members(ensemble, chosen))}, got no {paths[0]}"
        + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        + ("; `segsearch prune` deleted them, since the verdict's rule does not use them" if pruned else "")
        + f"; restore them from a copy of the run, or choose one of: {', '.join(whole) or 'no rule has all of its'}"
    )


def _members(ensemble: EnsembleResult, rule: RuleResult) -> list[str]:
    return [ensemble.members[m].trial for m in rule.fitted.used]


def _note(run: RunDir, export: Mapping[str, str]) -> list[str]:
    """Add an export to run.json, where the report stage finds it, and to the report that is there already."""
    from analysis.report.exports import mark_exports

    record = read_json(run.run_json)
    record[EXPORTS] = [*(one for one in record.get(EXPORTS, []) if one["out"] != export["out"]), export]
    write_json(run.run_json, record)
    if run.report.is_file() and not mark_exports(run.report, record[EXPORTS]):
        return [f"note: {run.report} is of an earlier version and does not show the choice"]
    return []


if __name__ == "__main__":
    app()
