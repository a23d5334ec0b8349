"""What ensemble.json holds (format segsearch-ensemble/1), as frozen models, and its reading and writing.

Imports neither numpy nor torch, so that commands which only read a verdict start quickly. `build_result` makes these
values from arrays. M members, best first; K classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from analysis.ensembling.fitted_rule import FittedRule, StackerFile, Temperatures, ViewNames, VoteKind, Weights
from analysis.postprocess.options import Postprocess
from trainables.files import write_text
from trainables.plain_json import parse_json
from trainables.recipe.config import Config

FORMAT: Literal["segsearch-ensemble/1"] = "segsearch-ensemble/1"
FAIR_RIVAL = "best_single_class"  # a gain over the best single model may be no more than a repaired class prior
CostUnit = Literal["ms", "views"]
MemberForm = Annotated[
    Literal["trial", "mean", "refit"],
    Field(description="mean: of a recipe's fold models; refit: the recipe trained on all folds"),
]
ByClass = Annotated[tuple[float | None, ...], Field(description="(K,), null for a class that no pixel has")]


class Score(Config):
    """mIoU and IoU per class with 95% intervals. A class that does not occur in the truth has none."""

    miou: float | None
    low: float | None
    high: float | None
    iou: ByClass
    iou_low: ByClass
    iou_high: ByClass


class Gain(Config):
    """A paired difference in mIoU with its 95% interval; no interval where no resample had a score."""

    gain: float = Field(allow_inf_nan=True, description="NaN, which is never written, where neither has a score")
    low: float | None
    high: float | None
    p_positive: float = Field(description="share of resamples in which the difference is above 0")

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low is not None and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.high is not None and self.high < 0


NO_GAIN = Gain(gain=0.0, low=0.0, high=0.0, p_positive=0.0)


class MemberResult(Config):
    """A candidate."""

    trial: str
    recipe_hash: str
    family: str
    views: tuple[str, ...] = Field(description="the views that are best for it alone")
    val_miou: float = Field(description="of its plain view")
    costs: dict[str, float] = Field(description="by view, per image, in the file's cost_unit")
    ingredients: tuple[str, ...] | None = Field(default=None, description="models whose mean it is, if any")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _drop_none(handler(self), "ingredients")


class RuleResult(Config):
    """A rule as it was fitted on all of val, and its scores: on val as fitted, on val cross-fitted, on the hold-out."""

    name: Annotated[str, StringConstraints(pattern=r"^\w+$")]  # a folder may be named after it
    reason: str = Field(default="", description="why it was taken on val, or was not")
    vote: VoteKind
    weights: Weights
    stacker: StackerFile | None = Field(default=None, description="of a stacked vote")
    views: ViewNames
    cost: float = Field(description="per image, in the file's cost_unit")
    temperatures: Temperatures
    val_fitted: Score
    val_crossfit: Score
    holdout: Score
    gain_crossfit: Gain = Field(description="over best_single")
    gain_over_rival_crossfit: Gain = Field(description=f"over {FAIR_RIVAL}")
    gain_holdout: Gain = Field(description="over best_single")
    gain_over_rival_holdout: Gain = Field(description=f"over {FAIR_RIVAL}")
    of: str | None = Field(default=None, description="the rule that is post-processed")
    postprocess: Postprocess | None = None

    @property
    def fitted(self) -> FittedRule:
        return FittedRule(
            kind=self.vote,
            views=self.views,
            temperatures=self.temperatures,
            weights=self.weights,
            stacker=self.stacker,
        )

    @model_validator(mode="after")
    def _can_vote(self) -> RuleResult:
        assert self.fitted.kind == self.vote  # it checks itself
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _drop_none(handler(self), "of", "postprocess", "stacker")


class PostprocessResult(Config):
    """Whether post-processing was kept, and why."""

    rule: str = Field(description="the rule that it was tried on")
    kept: bool
    reason: str
    steps: Postprocess | None
    gain: Gain | None = Field(description="cross-fitted, over the rule without; null where no sizes were tried")


class ParetoPoint(Config):
    """A set of members and views that the search visited: a single plain view, or one on the front."""

    ms: float = Field(description="cost per image, in the file's cost_unit")
    miou_fitted: float
    miou_crossfit: float
    members: tuple[str, ...] = Field(description="trials")
    views: tuple[tuple[str, ...], ...] = Field(description="of each of these members")
    front: bool = Field(description="nothing cheaper is as good")


class Verdict(Config):
    """What to ship."""

    rule: str
    ship: Literal["single", "ensemble"]
    sentence: str
    gain: Gain = Field(description="on the hold-out, over the best single model")
    num_images: int = Field(description="of the hold-out")


class HoldoutOpening(Config):
    """One reading of the hold-out's labels."""

    at: str = Field(description="ISO 8601")
    by: str


class Confusion(Config):
    """Pixel counts of the shipped rule."""

    split: Literal["holdout"]
    rule: str
    counts: tuple[tuple[int, ...], ...] = Field(description="(K,K), a row per true class")


class ImageScore(Config):
    """mIoU of one hold-out image, null where it has no labelled pixel."""

    image_id: str
    miou_single: float | None
    miou_shipped: float | None


class FittedOn(Config):
    """The images that rules were fitted and cross-fitted on, and who predicted them."""

    kind: Literal["val", "out_of_fold"] = Field(
        description="val: by models that were compared on it; out_of_fold: each by the fold models that never saw it"
    )
    images: int
    folds: int = Field(default=0, description="of the models; 0: none")


class FormResult(Config):
    """The shipped rule with its members in another form, on the hold-out: the same recipes, views and weights."""

    form: MemberForm
    cost: float = Field(description="per image, in the file's cost_unit")
    holdout: Score
    gain: Gain = Field(description="over best_single as it was judged")
    gain_over_shipped: Gain = Field(description="over the rule as it ships")


class EnsembleResult(Config):
    """ensemble.json."""

    format: Literal["segsearch-ensemble/1"]
    classes: tuple[str, ...] = Field(description="(K,)")
    background: bool = Field(description="class 0 is 'under no annotation'")
    num_val: int
    num_holdout: int
    fitted_on: FittedOn = Field(description="where a file has none, it was val")
    unit: Literal["image", "group"] = Field(description="what the hold-out's intervals resample")
    caveats: tuple[str, ...]
    members: tuple[MemberResult, ...] = Field(description="(M,), best first")
    rules: tuple[RuleResult, ...] = Field(description="from plain to rich")
    postprocess: PostprocessResult
    cost_unit: CostUnit
    latency_budget_ms: float | None
    pareto: tuple[ParetoPoint, ...] = Field(description="from cheap to expensive")
    verdict: Verdict
    holdout_opened: tuple[HoldoutOpening, ...] = Field(description="oldest first")
    confusion: Confusion
    images: tuple[ImageScore, ...]
    form: MemberForm = "trial"
    other_forms: tuple[FormResult, ...] = Field(default=(), description="what else may ship, see `segsearch export`")

    @property
    def shipped(self) -> RuleResult:
        """The rule that the verdict chose."""
        return self.rule(self.verdict.rule)

    def rule(self, name: str) -> RuleResult:
        return next(rule for rule in self.rules if rule.name == name)

    def shipped_as(self, form: MemberForm) -> RuleResult:
        """The rule that the verdict chose, with its scores on the hold-out in another of the forms that were judged.
        Raises ValueError for one that was not."""
        found = {one.form: one for one in self.other_forms}
        if form == self.form:
            return self.shipped
        if form not in found:
            judged = ", ".join([self.form, *found])
            raise ValueError(f"members must ship in a form that the verdict judged ({judged}), got {form}; choose one")
        holdout, over_single = found[form].holdout, found[form].gain
        return self.shipped.model_copy(
            update={"holdout": holdout, "gain_holdout": over_single, "cost": found[form].cost}
        )

    @model_validator(mode="before")
    @classmethod
    def _of_older_files(cls, values: Any) -> Any:
        if isinstance(values, dict) and "fitted_on" not in values:
            return {**values, "fitted_on": {"kind": "val", "images": values.get("num_val", 0)}}
        return values

    @model_validator(mode="after")
    def _check_shapes(self) -> EnsembleResult:
        names = [rule.name for rule in self.rules]
        if self.verdict.rule not in names:
            raise ValueError(f"the verdict must be on one of the rules {', '.join(names)}, got {self.verdict.rule}")
        shape = [len(self.classes)] * len(self.members)
        for rule in self.rules:
            if [len(row) for row in rule.weights] != shape or len(rule.views) != len(shape):
                raise ValueError(f"rule {rule.name} must have weights per member and class and views per member")
        return self

    @classmethod
    def read(cls, path: Path) -> EnsembleResult:
        """Read ensemble.json. Raises ValueError naming the file where it is missing, cut short or of another format."""
        remedy = "give the directory of a run whose ensemble stage is done, or run that stage again"
        try:
            raw = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path} must be a run's ensemble result, got no whole file ({reason}); {remedy}"
            ) from None
        found = raw.get("format") if isinstance(raw, dict) else None
        if found != FORMAT:
            raise ValueError(f"{path} must have the format {FORMAT!r}, got {found!r}; use the segsearch that wrote it")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = "/".join(map(str, first["loc"])) or "the whole"
            raise ValueError(
                f"{path} does not keep the format {FORMAT}: {where}: {first['msg']} "
                f"({error.error_count()} problems in all); {remedy}"
            ) from None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all. Raises ValueError where a score is NaN."""
        write_text(path, json.dumps(self.model_dump(), indent=1, allow_nan=False))


def _drop_none(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None or key not in keys}
