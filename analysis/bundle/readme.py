"""The README.md of a bundle: a model card as Hugging Face reads it, from what the bundle and the verdict hold.

No clock and no machine shows in it: the same run gives the same bytes. Names of classes, data and trials are data, and
are escaped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from analysis.bundle.manifest import SINGLE_TRIAL, Manifest, Member
from analysis.bundle.standalone.network import unreadable
from analysis.ensembling.result import FAIR_RIVAL, EnsembleResult, RuleResult, Score
from analysis.ensembling.verdict import signed
from analysis.report.origin import typed
from analysis.report.tables import write_fitted_on
from trainables.models.licences import CommercialUse, commercial_use

WITHOUT_SEGSEARCH = """Without segsearch:

```sh
pip install torch timm safetensors pillow
python load.py photo.jpg label.png
```

```python
from load import load

label = load()(rgb)  # uint8 (H,W,3) -> class indices (H,W)
```"""


@dataclass(frozen=True)
class RunFacts:
    """What a README says of the run, beyond what the bundle itself holds."""

    command: Sequence[str] = ()  # the run's, as it was typed
    num_train: int | None = None  # images that trials were trained on


def write_card(manifest: Manifest, ensemble: EnsembleResult, rule: RuleResult, run: RunFacts) -> str:
    """The text of README.md."""
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)}---",
        f"# {_text(manifest.data)}: semantic segmentation into {len(manifest.classes)} classes",
        f"The verdict: {_text(manifest.sentence.rstrip('.'))}.",
        *([f"**Chosen by hand:** {_text(manifest.user_choice.sentence)}."] if manifest.user_choice else []),
        *_usage(manifest),
        *_scores(manifest, ensemble, rule),
        *_members(manifest),
        *_data(manifest, ensemble, run),
        *_licences(manifest.licences),
        *_origin(manifest, run),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Manifest) -> dict[str, Any]:
    """Model metadata of the Hugging Face hub (model-index is its format of results)."""
    miou = manifest.scores.holdout.miou
    metric = {"type": "mean_iou", "name": "mIoU on the hold-out", "value": miou}
    dataset = {"name": manifest.data, "type": manifest.data}
    result = {"task": {"type": "image-segmentation"}, "dataset": dataset, "metrics": [metric]}
    about: dict[str, Any] = {"library_name": "segsearch", "pipeline_tag": "image-segmentation", "license": "other"}
    about |= {"tags": ["semantic-segmentation", "timm", *(["ensemble"] if len(manifest.members) > 1 else [])]}
    named = f"{manifest.data} {manifest.rule}"
    return about | ({} if miou is None else {"model-index": [{"name": named, "results": [result]}]})


def _usage(manifest: Manifest) -> list[str]:
    lacking = unreadable(manifest.model_dump(mode="json"))
    if lacking:
        alone = f"`load.py`, which does without segsearch, cannot read this bundle: it lacks {', '.join(lacking)}."
    else:
        alone = WITHOUT_SEGSEARCH
    return [
        "## Use",
        "With segsearch:\n\n```sh\nsegsearch predict --bundle . --images photos/ --out predictions/\n```",
        alone,
        "Pixels are taken as stored; an orientation tag is not applied. Weights are safetensors: nothing is unpickled.",
    ]


def _scores(manifest: Manifest, ensemble: EnsembleResult, rule: RuleResult) -> list[str]:
    scores, fitted = manifest.scores, ensemble.fitted_on.images
    rows = [
        ("as fitted", fitted, scores.val_fitted),
        ("cross-fitted", fitted, scores.val_crossfit),
        ("hold-out, which nothing was fitted to", ensemble.num_holdout, scores.holdout),
    ]
    holdout = scores.holdout
    classes = zip(manifest.classes, holdout.iou, holdout.iou_low, holdout.iou_high, strict=True)
    return [
        "## Scores",
        "mIoU is the mean over the classes that occur in the truth, of one confusion matrix summed over images; "
        f"intervals are 95%, resampled by {ensemble.unit}.",
        _table(("images", "number", "mIoU"), ((what, str(n), write_score(score)) for what, n, score in rows)),
        *_gains(rule),
        _table(("class", "IoU on the hold-out"), ((name, _interval(*iou)) for name, *iou in classes)),
        *(f"* {_text(caveat)}" for caveat in manifest.caveats),
    ]


def _gains(rule: RuleResult) -> list[str]:
    if rule.holdout.miou is None:
        return []
    return [
        f"On the hold-out: {signed(rule.gain_holdout)} over the best single model, "
        f"{signed(rule.gain_over_rival_holdout)} over the best single model with class weights ({FAIR_RIVAL})."
    ]


def _members(manifest: Manifest) -> list[str]:
    vote = {"soft": "a weighted sum of probabilities", "geometric": "a geometric mean", "hard": "a majority of labels"}
    return [
        "## Members",
        f"Rule `{manifest.rule}`: {vote.get(manifest.vote, manifest.vote)}"
        + (", then post-processing of the label map." if manifest.postprocess else "."),
        _table(("member", "backbone", "head", "views", "weights"), (_member(one) for one in manifest.members)),
    ]


def _member(member: Member) -> tuple[str, ...]:
    recipe, files = member.recipe, ", ".join(file.weights for file in member.files)
    return member.trial, recipe.backbone.name, recipe.head.name, ", ".join(member.views), files


def _data(manifest: Manifest, ensemble: EnsembleResult, run: RunFacts) -> list[str]:
    train = "" if run.num_train is None else f"{run.num_train} images to train on, "
    prints = f"fingerprint `{manifest.data_fingerprint}`, split `{manifest.split_fingerprint}`"
    return [
        "## Data and splits",
        f"{_text(manifest.data)} ({prints}): {train}{ensemble.num_holdout} held out. "
        f"{write_fitted_on(ensemble.fitted_on)}",
        f"Classes, from index 0: {', '.join(_text(name) for name in manifest.classes)}.",
    ]


def licence_lines(licences: Sequence[str]) -> tuple[list[str], str]:
    """Each licence with a plain word on commercial use, and what they come to together: the strictest decides."""
    uses = [commercial_use(licence.rpartition(": ")[2]) for licence in licences]
    lines = [f"{licence} ({use.sentence})" for licence, use in zip(licences, uses, strict=True)]
    together = max(uses, default=CommercialUse.UNKNOWN)
    return lines, f"Taken together: {together.sentence}. This is a reading of names, not legal advice."


def _licences(licences: Sequence[str]) -> list[str]:
    lines, together = licence_lines(licences)
    return ["## Licences", "\n".join(f"* {_text(line)}" for line in lines), together]


def _origin(manifest: Manifest, run: RunFacts) -> list[str]:
    lines = [typed(run.command)]
    if manifest.user_choice:
        trials = [member.trial for member in manifest.members]
        what = f"--trial {shlex.quote(trials[0])}" if manifest.rule == SINGLE_TRIAL else f"--rule {manifest.rule}"
        lines.append(f"segsearch export --run RUN {what}")
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    made = "\n".join(lines).replace("```", "")
    return ["## Made by", f"```sh\n{made}\n```", f"With {_text(versions)}."]


def write_score(score: Score) -> str:
    """'0.512 [0.480, 0.541]'."""
    return _interval(score.miou, score.low, score.high)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """One line of plain Markdown, whatever a name holds."""
    plain = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", plain)
