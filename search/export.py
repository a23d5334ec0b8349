"""Export a finished run for another runtime, or another rule than the verdict's, marked as the user's choice.

    segsearch export --run RUN [--format onnx] [--rule soft_vote | --trial 3] [--form refit] [--out DIR]

Written is RUN/<format>-<rule>, RUN/<format>-<rule>-<form> or RUN/<format>-trial-<trial> by default, from the files of
the run directory alone: no cluster is started and no image is read. The verdict stays as it is; bundle, report and
`segsearch predict` say that the user chose otherwise. As a bundle, the verdict's own rule gives what the bundle stage
wrote, byte for byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from search.run_dir import BUNDLE, RunDir, existing_run_dir, read_json, write_json
from search.run_lock import hold
from search.run_record import read_record
from search.stages.stage import Stage
from trainables.command import DebugOption, errors_to_exit, new_app, run_command

if TYPE_CHECKING:
    from analysis.ensembling.result import EnsembleResult, RuleResult

EXPORTS = "exports"  # the key of run.json that lists bundles of rules that users chose
STUDENTS = {"distilled": "distil", "pseudo": "pseudo"}  # folders of a run, and the commands that make them
Form = Literal["mean", "refit"]
Format = Literal["bundle", "onnx", "torch_export"]

app = new_app()


@dataclass(frozen=True)
class Wanted:
    """What is exported, as the user named it: a rule (None: the verdict's), its members' form, or one trial alone."""

    rule: str | None = None
    form: Form | None = None
    trial: str | None = None

    def __post_init__(self) -> None:
        if self.trial is not None and (self.rule or self.form):
            other = f"--rule {self.rule}" if self.rule else f"--form {self.form}"
            raise ValueError(f"--trial must go without a rule and a form, got --trial {self.trial} {other}; choose one")


@dataclass(frozen=True)
class Output:
    """How it is written, and where (None: in the run directory)."""

    format: Format = "bundle"
    out: Path | None = None
    fp16: bool = False


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a run whose ensemble stage is done.")],
    rule: Annotated[
        str | None, typer.Option(help="The rule to ship, by default the verdict's; a wrong name lists all of them.")
    ] = None,
    form: Annotated[Form | None, typer.Option(help="With folds, of the verdict's rule: what its members are.")] = None,
    trial: Annotated[
        str | None,
        typer.Option(help="One trial alone, by number or name, in place of a rule; or `distilled`."),
    ] = None,
    file_format: Annotated[
        Format, typer.Option("--format", help="A bundle, or a graph per network, checked against PyTorch.")
    ] = "bundle",
    fp16: Annotated[bool, typer.Option("--fp16", help="With --format onnx: half precision inside.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder; default: RUN/<format>-<rule>.")] = None,
    debug: DebugOption = False,
) -> None:
    """Export a finished run, or another rule of it than the verdict's, marked as the user's choice."""
    with errors_to_exit(debug=debug):
        wanted, output = Wanted(rule, form, trial), Output(file_format, out, fp16)
        lines = export_run(run, wanted, output, at=datetime.now().astimezone().isoformat(timespec="seconds"))
    typer.echo("\n".join(lines))


def export_run(root: Path, wanted: Wanted, output: Output, *, at: str) -> list[str]:
    """Write what is wanted and, where it is not the verdict's, note it in run.json and report.html; returns what to
    say.

    Raises ValueError where `root` is no run with a verdict, another process works on it, it has no such rule or trial
    or did not judge the rule in this form, weights of the rule's members are gone, `out` may not be replaced, or a
    network cannot be written in this format.
    """
    run = existing_run_dir(root, "--run")
    said: list[str] = []
    with hold(run.root, said.append):
        _check_judged(run)
        from analysis.bundle.export import export, user_choice
        from analysis.ensembling.result import EnsembleResult
        from search.stages.bundle import facts_of, weights_of
        from search.stages.single_trial import with_trial_alone

        _check_format(output)
        if wanted.trial in STUDENTS:
            return _export_student(run, wanted.trial, output)
        ensemble = EnsembleResult.read(run.ensemble_json)
        weights = weights_of(run, ensemble, wanted.form)
        if wanted.trial is None:
            chosen, folder = _chosen_rule(ensemble, wanted)
        else:
            ensemble, chosen, weights = with_trial_alone(run, ensemble, weights, wanted.trial)
            folder = f"trial-{_members(ensemble, chosen)[0]}"
        choice = user_choice(ensemble, chosen, wanted.form)
        target = (output.out.expanduser() if output.out else run.export_of(output.format, folder)).resolve()
        replaced = _check_target(run, target, output.format, is_verdicts=choice is None)
        _check_weights(run, ensemble, chosen, weights)
        if output.format == "bundle":
            export(facts_of(run), ensemble, weights, target, chosen, wanted.form, ensemble_dir=run.root)
        else:
            from analysis.bundle.manifest import read_bundle
            from analysis.bundle.network_export import export_networks

            with tempfile.TemporaryDirectory(dir=run.root, prefix=".export-") as temporary:
                bundle = Path(temporary) / "bundle"
                export(facts_of(run), ensemble, weights, bundle, chosen, wanted.form, ensemble_dir=run.root)
                said += export_networks(read_bundle(bundle), target, output.format, fp16=output.fp16)
        if choice is not None:
            noted = {"at": at, "rule": chosen.name, "out": str(target), "said": choice.sentence}
            said += [choice.sentence, *_note(run, noted)]
    return [*said, f"the verdict: {ensemble.verdict.sentence}", f"{output.format}{replaced}: {target}"]


def _export_student(run: RunDir, name: str, output: Output) -> list[str]:
    """Write a student's networks for another runtime, from its own bundle; its verdict stands there."""
    from analysis.bundle.manifest import read_bundle
    from analysis.bundle.network_export import export_networks

    bundle = run.root / name / BUNDLE
    if not bundle.is_dir():
        raise ValueError(
            f"--trial {name} needs a student that was trained, got no {bundle}; see `segsearch {STUDENTS[name]} --help`"
        )
    if output.format == "bundle":
        raise ValueError(f"--trial {name} is a bundle already, got --format bundle; it lies in {bundle}")
    target = (output.out.expanduser() if output.out else run.export_of(output.format, name)).resolve()
    replaced = _check_target(run, target, output.format, is_verdicts=False)
    found = read_bundle(bundle)
    lines = export_networks(found, target, output.format, fp16=output.fp16)
    return [*lines, found.manifest.sentence, f"{output.format}{replaced}: {target}"]


def _check_format(output: Output) -> None:
    if output.format != "bundle" or output.fp16:
        from analysis.bundle.network_export import check_format

        check_format(output.format, fp16=output.fp16)


def _chosen_rule(ensemble: EnsembleResult, wanted: Wanted) -> tuple[RuleResult, str]:
    """-> the rule, and the name of its folder."""
    chosen = _rule(ensemble, wanted.rule or ensemble.verdict.rule)
    if wanted.form is None:
        return chosen, chosen.name
    return _in_form(ensemble, chosen, wanted.form), f"{chosen.name}-{wanted.form}"


def _check_judged(run: RunDir) -> None:
    if not read_record(run)["stages"].get(Stage.ensemble):
        raise ValueError(
            f"a rule can be exported once the ensemble stage is done, got {run.root} without it; finish it first: "
            f"{run_command('--resume', run.root)}"
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


def _in_form(ensemble: EnsembleResult, chosen: RuleResult, form: Form) -> RuleResult:
    if chosen.name != ensemble.verdict.rule and form != ensemble.form:
        raise ValueError(
            f"--form {form} must go with the verdict's rule, {ensemble.verdict.rule}, the only one that was judged in "
            f"it, got --rule {chosen.name}; leave one of the two out"
        )
    return ensemble.shipped_as(form) if chosen.name == ensemble.verdict.rule else chosen


def _check_target(run: RunDir, target: Path, file_format: Format, *, is_verdicts: bool) -> str:
    """', replaced' where the folder holds an older export. Raises ValueError where it must not be replaced."""
    from analysis.bundle.export import foreign_files
    from analysis.bundle.network_export import foreign_to_networks

    if target == run.bundle.resolve() and not (is_verdicts and file_format == "bundle"):
        raise ValueError(
            f"--out must leave the verdict's own bundle as it is, got {target}; choose another folder, or leave --out "
            "out"
        )
    if not target.exists():
        return ""
    foreign = foreign_files(target) if file_format == "bundle" else foreign_to_networks(target)
    if foreign:
        what = "a bundle" if file_format == "bundle" else "networks that were exported"
        raise ValueError(
            f"--out must be a new folder, or one that holds {what} and nothing else, got {target} with "
            f"{', '.join(foreign[:3])}; choose another"
        )
    return ", replaced"


def _check_weights(
    run: RunDir, ensemble: EnsembleResult, chosen: RuleResult, weights: Mapping[str, Sequence[Path]]
) -> None:
    """Raises ValueError where weights of the rule's members are gone, with the rules whose weights are there."""
    gone = {trial: [path for path in paths if not path.is_file()] for trial, paths in weights.items()}
    lacking = {r.name: [m for m in _members(ensemble, r) if gone[m]] for r in (*ensemble.rules, chosen)}
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
