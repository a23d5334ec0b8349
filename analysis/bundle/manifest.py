"""The bundle: what ships. A folder of safetensors and one JSON file, which is all that is read here; the README.md and
the Python files beside them are for others, and never run.

`read_bundle` checks the size and the SHA-256 of every file that the manifest names. This module imports neither torch
nor timm, so that a broken bundle is reported in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from analysis.ensembling.fitted_rule import FittedRule, StackerFile, VoteKind
from analysis.ensembling.result import Score
from analysis.ensembling.stacker_file import read_stacker
from analysis.postprocess.options import Postprocess
from analysis.voting.stacker import Stacker
from trainables.logits.view_name import VIEW_NAME, tile_fault
from trainables.plain_json import parse_json
from trainables.recipe.config import Config
from trainables.recipe.recipe import MAX_SIDE_PX, Recipe

FORMAT: Literal["segsearch-bundle/1"] = "segsearch-bundle/1"
MANIFEST = "bundle.json"
SINGLE_TRIAL = "single_trial"  # the rule of one trial alone, which is none of the ensemble's
MAX_BYTES = 2**24  # of the manifest
Channel = Annotated[int, Field(ge=0, le=255)]
Rgb = tuple[Channel, Channel, Channel]
Mean = Annotated[float, Field(ge=-10.0, le=10.0)]
Std = Annotated[float, Field(ge=1e-3, le=10.0)]
ClassName = Annotated[str, Field(min_length=1, max_length=1000)]
ViewName = Annotated[
    str, StringConstraints(pattern=r"^s\d\.\d\d-(t\d{2,4}o\d\d-)?(r(90|180|270)-)?(none|horizontal|vertical)$")
]
MAX_WEIGHT = 1e6  # of votes, which are summed in float32
SCALES = 0.25, 4.0  # of views, as in a space
PlainFileName = Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*\.safetensors$")]  # so: no folder, no ".."


class BundleError(ValueError):
    """A bundle that must not be used, with the file, the value and the remedy."""


class Scores(Config):
    """The shipped rule's scores: fitted and read on val, cross-fitted on val, read on the sealed hold-out."""

    val_fitted: Score
    val_crossfit: Score
    holdout: Score


class WeightsFile(Config):
    """A network's weights, a file beside the manifest."""

    weights: PlainFileName
    num_bytes: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Member(WeightsFile):
    """One network of the ensemble, or several of one recipe that vote with the mean of their probabilities."""

    trial: str
    more_weights: tuple[WeightsFile, ...] = Field(default=(), description="of the further networks, one per fold")
    recipe: Recipe
    mean: tuple[Mean, Mean, Mean]  # of RGB in [0,1], subtracted before the network
    std: tuple[Std, Std, Std]
    views: Annotated[tuple[ViewName, ...], Field(min_length=1)]
    short_px: Annotated[int, Field(ge=32, le=MAX_SIDE_PX)] | None
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0  # divides the logits of every view before the softmax

    @field_validator("views")
    @classmethod
    def _each_once(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(views)) < len(views):
            raise ValueError(f"views must differ, got {len(views)} of which {len(set(views))} differ; export again")
        odd = [view for view in views if not SCALES[0] <= float(view[1:5]) <= SCALES[1]]
        if odd:
            raise ValueError(f"views must have scales from {SCALES[0]} to {SCALES[1]}, got {odd[0]}; export again")
        for px, percent in (found.groups()[1:3] for view in views if (found := re.fullmatch(VIEW_NAME, view))):
            if px and (fault := tile_fault(int(px), int(percent) / 100)):
                raise ValueError(fault)
        return views

    @property
    def files(self) -> tuple[WeightsFile, ...]:
        """The weights of all its networks."""
        return self, *self.more_weights

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of one network, what every version of the format can read."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key != "more_weights" or value}


class UserChoice(Config):
    """Says that a user shipped another rule than the verdict's."""

    verdict_rule: str
    sentence: str  # the rule that was chosen, its score and its gain on the hold-out


class Manifest(Config):
    """bundle.json. Member m gives class k the weight `weights[m][k]`."""

    format: Literal["segsearch-bundle/1"]
    versions: dict[str, str]  # of the packages that wrote it
    data: str
    data_fingerprint: str
    split_fingerprint: str
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=255)]  # (K,)
    background: bool  # class 0 is "under no annotation"
    flip_pairs: tuple[tuple[int, int], ...] = ()  # classes that change places in a mirrored view
    palette: tuple[Rgb, ...]  # (K,3)
    rule: str
    vote: VoteKind
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=256)]  # (M,)
    weights: tuple[tuple[float, ...], ...]  # (M,K)
    stacker: StackerFile | None = Field(default=None, description="of a stacked vote")
    postprocess: Postprocess | None = None  # of the label map; off where None
    scores: Scores
    sentence: str  # the verdict
    user_choice: UserChoice | None = Field(default=None, description="where `rule` is not the verdict's")
    caveats: tuple[str, ...]
    licences: tuple[str, ...]  # of the images and of the pretrained weights that it was trained on

    @property
    def fitted(self) -> FittedRule:
        """The rule that combines the members."""
        return FittedRule(
            kind=self.vote,
            views=tuple(member.views for member in self.members),
            temperatures=tuple(member.temperature for member in self.members),
            weights=self.weights,
            stacker=self.stacker,
        )

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of the verdict's own rule and another vote than a stacker's, what every version of the format can read."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key not in ("user_choice", "stacker") or value}

    @model_validator(mode="after")
    def _shapes(self) -> Manifest:
        num_classes, num_members = len(self.classes), len(self.members)
        if len(self.palette) != num_classes:
            raise ValueError(f"palette must have a colour per class, got {len(self.palette)} for {num_classes}")
        if [len(row) for row in self.weights] != [num_classes] * num_members:
            shape = f"{num_members} x {num_classes}"
            raise ValueError(f"weights must be {shape} (members x classes), got rows {[len(r) for r in self.weights]}")
        sizes = self.postprocess
        if sizes and not len(sizes.min_component) == len(sizes.max_hole) == num_classes:
            found = f"{len(sizes.min_component)} and {len(sizes.max_hole)}"
            raise ValueError(f"postprocess must have two sizes per class, got {found} for {num_classes} classes")
        if not all(0 <= weight <= MAX_WEIGHT for row in self.weights for weight in row):
            raise ValueError(
                f"weights must be numbers of 0 or more, to {MAX_WEIGHT:g}, got {self.weights!r:.200}; export again"
            )
        sides = [k for pair in self.flip_pairs for k in pair]
        if len(set(sides)) < len(sides) or not all(0 <= k < num_classes for k in sides):
            raise ValueError(f"flip_pairs must name classes 0 to {num_classes - 1}, each once, got {self.flip_pairs}")
        silent = [name for k, name in enumerate(self.classes) if not any(row[k] for row in self.weights)]
        if len(silent) == num_classes or (silent and self.vote == "geometric"):
            # a product of no probabilities is 1: such a class would win everywhere
            raise ValueError(
                f"weights must not sum to 0 for a class in a {self.vote} vote, got that for {', '.join(silent)}; "
                "give it the weights of another class"
            )
        assert self.fitted.kind == self.vote  # it checks that a stacked vote, and no other, has a stacker
        return self


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    manifest: Manifest

    def weights_paths(self, member: Member) -> list[Path]:
        """The files of the member's networks."""
        return [self.folder / file.weights for file in member.files]

    def stacker(self) -> Stacker | None:
        """The stacker of a stacked vote. Raises BundleError where its file is not whole."""
        manifest = self.manifest
        if manifest.stacker is None:
            return None
        try:
            return read_stacker(self.folder, manifest.stacker, len(manifest.members), len(manifest.classes))
        except ValueError as error:
            raise BundleError(str(error)) from error


def read_bundle(folder: Path) -> Bundle:
    """Read bundle.json and verify every file it names. Raises BundleError naming the first file that is not whole."""
    manifest = read_manifest(folder)
    for file in (file for member in manifest.members for file in member.files):
        _verify(folder / file.weights, file)
    bundle = Bundle(folder, manifest)
    bundle.stacker()
    return bundle


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json alone. Raises BundleError where it is missing or breaks the format."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(
            f"a bundle is a folder that holds {MANIFEST}, got {folder}; give the bundle/ folder of a finished run"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} must be a file that can be read, got none ({error.strerror}); check it") from None
    if len(text) > MAX_BYTES:
        raise BundleError(f"{path} must have at most {MAX_BYTES} bytes, got more; copy the bundle again")
    try:
        raw: Any = parse_json(text)
    except ValueError as error:
        raise BundleError(
            f"{path} must be JSON, got a broken file ({error}); it was cut short or edited: copy the bundle again"
        ) from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if isinstance(found, str) and re.fullmatch(r"segsearch-bundle/\d+", found) and found != FORMAT:
        raise BundleError(f"{path} must have the format {FORMAT!r}, got {found!r}, a newer one; update segsearch")
    if found != FORMAT:
        raise BundleError(f"{path} must have the format {FORMAT!r}, got {found!r}; use the segsearch that wrote it")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"]) or "the whole"
        raise BundleError(
            f"{path} does not keep the format {FORMAT}: {where}: {first['msg']:.300} "
            f"({error.error_count()} problems in all); copy the bundle again or use the segsearch that wrote it"
        ) from None


def _verify(path: Path, file: WeightsFile) -> None:
    remedy = "copy the bundle again from its run"
    if not path.is_file():
        raise BundleError(f"every file of a bundle must be there, got no {path.name} in {path.parent}; {remedy}")
    num_bytes = path.stat().st_size
    if num_bytes != file.num_bytes:
        what = "it was cut short" if num_bytes < file.num_bytes else "it has grown"
        raise BundleError(f"{path} must have {file.num_bytes} bytes, got {num_bytes}: {what}; {remedy}")
    digest = sha256_of(path)
    if digest != file.sha256:
        raise BundleError(
            f"{path} must have the SHA-256 {file.sha256[:12]}..., got {digest[:12]}...: it was changed; {remedy}"
        )
