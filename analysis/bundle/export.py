"""From the chosen rule to the bundle that ships.

Enters: ensemble.json, and the checkpoint folder (best.safetensors, best.json) of every trial that the rule uses.
Leaves: bundle/ with a safetensors file a member and bundle.json. It is written beside its name and renamed when whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm
from pydantic import ValidationError

from analysis.bundle.manifest import FORMAT, MANIFEST, Manifest, Member, Scores, read_bundle, sha256_of
from analysis.report.palette import palette
from trainables.models.backbone_names import MIX_TRANSFORMERS
from trainables.models.load import load_model
from trainables.models.weights_file import BEST_JSON, BEST_WEIGHTS
from trainables.recipe.recipe import Recipe

PACKAGES = ("segsearch", "torch", "timm", "segmentation-models-pytorch", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class BundleFacts:
    """What the bundle says of the data that it was trained on."""

    data: str  # the data card's name
    data_fingerprint: str
    split_fingerprint: str
    licences: Sequence[str] = ()  # of the images


def export(facts: BundleFacts, ensemble: Mapping[str, Any], checkpoints: Mapping[str, Path], out: Path) -> Path:
    """Write `out`, the bundle of the rule that the verdict chose; an older one there is replaced.

    `checkpoints` maps a trial to its checkpoint folder; only members with a weight are read. Raises ValueError where a
    checkpoint is missing, was cut short, or is of other classes, data or recipe than the ensemble says.
    """
    rule = next(rule for rule in ensemble["rules"] if rule["name"] == ensemble["verdict"]["rule"])
    used = [m for m, row in enumerate(rule["weights"]) if any(weight != 0.0 for weight in row)]
    assert used, "the shipped rule weighs no member"
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        members = [
            _copy_member(ensemble, rule, m, checkpoints, facts, temporary, position) for position, m in enumerate(used)
        ]
        manifest = _manifest(facts, ensemble, rule, members, [rule["weights"][m] for m in used])
        text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
        read_bundle(temporary)
        _replace_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _manifest(
    facts: BundleFacts,
    ensemble: Mapping[str, Any],
    rule: Mapping[str, Any],
    members: list[Member],
    weights: list[list[float]],
) -> Manifest:
    classes = ensemble["classes"]
    background = bool(ensemble["background"])
    scores = {name: rule[name] for name in Scores.model_fields}
    return Manifest(
        format=FORMAT,
        versions=_versions(),
        data=facts.data,
        data_fingerprint=facts.data_fingerprint,
        split_fingerprint=facts.split_fingerprint,
        classes=tuple(classes),
        background=background,
        palette=tuple((r, g, b) for r, g, b in palette(len(classes), background=background).tolist()),
        rule=rule["name"],
        vote=rule["vote"],
        members=tuple(members),
        weights=tuple(tuple(row) for row in weights),
        postprocess=rule.get("postprocess"),
        scores=Scores.model_validate(scores),
        sentence=ensemble["verdict"]["sentence"],
        caveats=tuple(ensemble["caveats"]),
        licences=_licences(facts, [member.recipe for member in members]),
    )


def _copy_member(
    ensemble: Mapping[str, Any],
    rule: Mapping[str, Any],
    m: int,
    checkpoints: Mapping[str, Path],
    facts: BundleFacts,
    folder: Path,
    position: int,
) -> Member:
    """Check a member's checkpoint against the ensemble, prove that it loads, and copy its weights."""
    candidate = ensemble["members"][m]
    trial = candidate["trial"]
    if trial not in checkpoints:
        known = ", ".join(sorted(checkpoints)) or "none"
        raise ValueError(f"the ensemble needs a checkpoint of trial {trial}, got those of {known}; keep its folder")
    source = checkpoints[trial]
    recipe, card = _read_card(source / BEST_JSON)
    expected = {
        "classes": list(ensemble["classes"]),
        "data_fingerprint": facts.data_fingerprint,
        "split_fingerprint": facts.split_fingerprint,
        "recipe_hash": candidate["recipe_hash"],
    }
    for key, value in expected.items():
        found = recipe.hash if key == "recipe_hash" else card[key]
        if found != value:
            raise ValueError(
                f"{source / BEST_JSON} must have the ensemble's {key} {value!r}, got {found!r}; "
                "the checkpoint is of another run: run the ensemble stage again"
            )
    model = load_model(recipe, len(ensemble["classes"]), source / BEST_WEIGHTS)
    target = folder / f"member-{position}.safetensors"
    shutil.copyfile(source / BEST_WEIGHTS, target)
    return Member(
        trial=trial,
        weights=target.name,
        num_bytes=target.stat().st_size,
        sha256=sha256_of(target),
        recipe=recipe,
        mean=_three(model.mean),
        std=_three(model.std),
        views=tuple(rule["views"][m]),
        short_px=recipe.augmentation.short_px,
        temperature=rule["temperatures"][m],
    )


def _read_card(path: Path) -> tuple[Recipe, dict[str, Any]]:
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(card["recipe"]), card
    except (OSError, json.JSONDecodeError, KeyError, ValidationError) as error:
        raise ValueError(
            f"{path} must describe its checkpoint (recipe, classes, fingerprints), got {type(error).__name__}: "
            f"{error}; restore the checkpoint folder or run the trial again"
        ) from error


def _licences(facts: BundleFacts, recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """Of the images, and of the pretrained weights that training began with."""
    images = [f"images of {facts.data}: {licence}" for licence in facts.licences]
    found = images or [f"images of {facts.data}: the data card names no licence"]
    for backbone in (recipe.backbone for recipe in recipes):
        if backbone.weights_file is not None:
            found.append(f"weights of {backbone.name} from {Path(backbone.weights_file).name}: not known, check them")
        elif backbone.pretrained and backbone.name in MIX_TRANSFORMERS:
            found.append(f"pretrained weights of {backbone.name}: NVIDIA's SegFormer licence, not for commercial use")
        elif backbone.pretrained:
            cfg = timm.get_pretrained_cfg(backbone.name)
            licence = getattr(cfg, "license", None) or "timm names no licence, check them"
            found.append(f"pretrained weights of {backbone.name}: {licence}")
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


def _replace_folder(new: Path, target: Path) -> None:
    """Rename `new` to `target`. A folder cannot be renamed over another: the old one steps aside first."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)
