"""Exports the rule that the verdict chose, or one that a user chose, as a bundle: bundle.json, a safetensors file per
network of the members that the rule uses, a model card, and code that others read it with. The folder is written beside
its name and renamed when whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from analysis.bundle import standalone
from analysis.bundle.manifest import (
    FORMAT,
    MANIFEST,
    SINGLE_TRIAL,
    BundleError,
    Manifest,
    Member,
    Scores,
    UserChoice,
    WeightsFile,
    read_bundle,
    read_manifest,
    sha256_of,
)
from analysis.bundle.readme import RunFacts, write_card, write_score
from analysis.ensembling.fitted_rule import FittedRule
from analysis.ensembling.result import EnsembleResult, MemberForm, MemberResult, RuleResult
from analysis.ensembling.stacker_file import read_stacker
from analysis.ensembling.verdict import BEST, signed
from analysis.report.palette import palette
from trainables.files import write_text
from trainables.models.licences import weights_licence
from trainables.models.load import load_network
from trainables.plain_json import parse_json
from trainables.recipe.recipe import Recipe

README = "README.md"
STANDALONE = ("load.py", "network.py", "postprocess.py")  # what others read the bundle with; never run here
FORMS: Mapping[MemberForm | None, str] = {
    "trial": "single trials",
    "mean": "means of fold models",
    "refit": "refits",
}
STACKER = "stacker.safetensors"
PACKAGES = ("segsearch", "torch", "timm", "segmentation-models-pytorch", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class BundleFacts:
    """What the bundle records of its training data."""

    data: str  # the data card's name
    data_fingerprint: str
    split_fingerprint: str
    licences: Sequence[str] = ()  # of the images
    flip_pairs: tuple[tuple[int, int], ...] = ()  # classes that change places in a mirrored view
    run: RunFacts = field(default_factory=RunFacts)


def export(
    facts: BundleFacts,
    ensemble: EnsembleResult,
    weights: Mapping[str, Sequence[Path]],
    out: Path,
    chosen: RuleResult | None = None,
    form: MemberForm | None = None,
    *,
    ensemble_dir: Path | None = None,
) -> Path:
    """Write `out`, the bundle of the rule that the verdict chose, or of the one that a user has `chosen` among the
    ensemble's, with its members in the `form` that was judged or in another; an older one there is replaced.

    `weights` maps a trial to its files of weights, one per network, each described by a JSON file of the same stem;
    only members with a weight in the rule are read. `ensemble_dir` holds the stacker of a stacked rule. Raises
    ValueError where a file is missing, was cut short, or is of other classes, data or recipe than the ensemble says.
    """
    shipped = chosen or ensemble.shipped
    rule, candidates = shipped.fitted.of_used(), [ensemble.members[m] for m in shipped.fitted.used]
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        members = []
        for m, candidate in enumerate(candidates):
            sources = _weights_of(candidate.trial, weights)
            recipes = [
                _checked_recipe(path.with_suffix(".json"), candidate, ensemble.classes, facts) for path in sources
            ]
            members.append(_copy_member(sources, recipes[0], rule, m, temporary, candidate.trial))
        rule = _copy_stacker(rule, ensemble_dir, temporary)
        manifest = _manifest(facts, ensemble, shipped, members, rule, user_choice(ensemble, shipped, form))
        text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        write_text(temporary / MANIFEST, text + "\n")
        write_text(temporary / README, write_card(manifest, ensemble, shipped, facts.run))
        for name in STANDALONE:
            shutil.copyfile(standalone.FOLDER / name, temporary / name)
        read_bundle(temporary)
        replace_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def user_choice(ensemble: EnsembleResult, chosen: RuleResult, form: MemberForm | None = None) -> UserChoice | None:
    """What a bundle says of a rule, or of a form of its members, that is not the verdict's; None of the verdict's
    own."""
    taken = ensemble.shipped
    if chosen.name == SINGLE_TRIAL:
        [member] = (ensemble.members[m] for m in chosen.fitted.used)
        sentence = (
            f"the user ships trial {member.trial} alone instead of {taken.name}, the verdict's: in validation the mIoU "
            f"of its plain view is {member.val_miou:.3f}; on {ensemble.num_holdout} held-out images, where it was not "
            f"scored, that of the verdict's is {write_score(taken.holdout)}"
        )
        return UserChoice(verdict_rule=taken.name, sentence=sentence)
    what, instead = chosen.name, taken.name
    if form not in (None, ensemble.form):
        what, instead = f"{what} of {FORMS[form]}", f"{instead} of {FORMS[ensemble.form]}"
    if what == instead:
        return None
    sentence = (
        f"the user ships {what} instead of {instead}, the verdict's: on {ensemble.num_holdout} held-out "
        f"images its mIoU is {write_score(chosen.holdout)}, {signed(chosen.gain_holdout)} over {BEST}; that of "
        f"the verdict's is {write_score(taken.holdout)}; what is chosen by these scores does worse on new images"
    )
    return UserChoice(verdict_rule=taken.name, sentence=sentence)


def foreign_files(folder: Path) -> list[str]:
    """What lies at `folder` that is no file of a bundle there, sorted; its own name where it is no folder."""
    if not folder.is_dir():
        return [folder.name]
    names = {path.name for path in folder.iterdir()}
    if not names:
        return []
    try:
        manifest = read_manifest(folder)
    except BundleError:
        return sorted(names)
    own = {MANIFEST, README, STACKER, *STANDALONE}
    return sorted(names - {*own, *(file.weights for member in manifest.members for file in member.files)})


def _manifest(
    facts: BundleFacts,
    ensemble: EnsembleResult,
    shipped: RuleResult,
    members: list[Member],
    rule: FittedRule,
    choice: UserChoice | None,
) -> Manifest:
    classes, background = ensemble.classes, ensemble.background
    return Manifest(
        format=FORMAT,
        versions=_versions(),
        data=facts.data,
        data_fingerprint=facts.data_fingerprint,
        split_fingerprint=facts.split_fingerprint,
        classes=classes,
        background=background,
        flip_pairs=facts.flip_pairs,
        palette=tuple((r, g, b) for r, g, b in palette(len(classes), background=background).tolist()),
        rule=shipped.name,
        vote=rule.kind,
        members=tuple(members),
        weights=rule.weights,
        stacker=rule.stacker,
        postprocess=shipped.postprocess,
        scores=Scores(val_fitted=shipped.val_fitted, val_crossfit=shipped.val_crossfit, holdout=shipped.holdout),
        sentence=ensemble.verdict.sentence,
        user_choice=choice,
        caveats=ensemble.caveats,
        licences=_licences(facts, [member.recipe for member in members]),
    )


def _weights_of(trial: str, weights: Mapping[str, Sequence[Path]]) -> Sequence[Path]:
    if trial not in weights:
        known = ", ".join(sorted(weights)) or "none"
        raise ValueError(f"the ensemble needs a checkpoint of trial {trial}, got those of {known}; keep its folder")
    return weights[trial]


def _checked_recipe(path: Path, candidate: MemberResult, classes: Sequence[str], facts: BundleFacts) -> Recipe:
    """The recipe of a checkpoint that is the ensemble's."""
    recipe, card = _read_card(path)
    expected = {
        "classes": list(classes),
        "data_fingerprint": facts.data_fingerprint,
        "split_fingerprint": facts.split_fingerprint,
        "recipe_hash": candidate.recipe_hash,
    }
    for key, value in expected.items():
        found = recipe.hash if key == "recipe_hash" else card.get(key)
        if found != value:
            raise ValueError(
                f"{path} must have the ensemble's {key} {value!r}, got {found!r}; "
                "the checkpoint is of another run: run the ensemble stage again"
            )
    return recipe


def _copy_member(sources: Sequence[Path], recipe: Recipe, rule: FittedRule, m: int, folder: Path, trial: str) -> Member:
    """Prove that a member's weights load, and copy them; `m` is its place in the rule."""
    network = load_network(recipe, len(rule.weights[m]), sources)
    names = [f"member-{m}.safetensors"] if len(sources) == 1 else [f"member-{m}-{path.name}" for path in sources]
    files = []
    for source, name in zip(sources, names, strict=True):
        target = folder / name
        shutil.copyfile(source, target)
        files.append(WeightsFile(weights=name, num_bytes=target.stat().st_size, sha256=sha256_of(target)))
    return Member(
        **files[0].model_dump(),
        trial=trial,
        more_weights=tuple(files[1:]),
        recipe=recipe,
        mean=_three(network.mean),
        std=_three(network.std),
        views=rule.views[m],
        short_px=recipe.augmentation.short_px,
        temperature=rule.temperatures[m],
    )


def _copy_stacker(rule: FittedRule, source: Path | None, folder: Path) -> FittedRule:
    """Copy a stacked rule's stacker, verified. -> the rule with the bundle's own file."""
    if rule.stacker is None:
        return rule
    if source is None:
        raise ValueError("a stacked rule is exported with its stacker, got no folder; give that of ensemble.json")
    read_stacker(source, rule.stacker, len(rule.weights), len(rule.weights[0]))
    shutil.copyfile(source / rule.stacker.file, folder / STACKER)
    return rule.model_copy(update={"stacker": rule.stacker.model_copy(update={"file": STACKER})})


def _read_card(path: Path) -> tuple[Recipe, dict[str, Any]]:
    try:
        card: dict[str, Any] = parse_json(path.read_bytes())
        return Recipe.model_validate(card["recipe"]), card
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must describe its checkpoint (recipe, classes, fingerprints), got {type(error).__name__}: "
            f"{error}; restore the checkpoint folder or run the trial again"
        ) from error


def _licences(facts: BundleFacts, recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """Of the images, and of the pretrained weights that training began with."""
    images = [f"images of {facts.data}: {licence}" for licence in facts.licences]
    found = images or [f"images of {facts.data}: the data card names no licence"]
    for backbone in (recipe.backbone for recipe in recipes):
        file, licence = backbone.weights_file, weights_licence(backbone)
        source = f"pretrained weights of {backbone.name}"
        if file is not None:
            source = f"weights of {backbone.name} from {Path(file).name}"
        found += [] if licence is None else [f"{source}: {licence}"]
    return tuple(dict.fromkeys(found))


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that is not installed, opencv under another name
            found[package] = "not installed as a package"
    return found


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def replace_folder(new: Path, target: Path) -> None:
    """Rename `new` to `target`. A folder cannot be renamed over another: the old one steps aside first."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)
