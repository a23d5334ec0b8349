"""The keys that a space may hold, derived from the recipe's and the options' own pydantic models.

A key of a `Section` leads to another section or to a `FieldInfo` (a value). A section with a `name` (backbone, head,
loss, optimizer) is where a choice may branch: each name brings its own keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from search.space.options import Options
from trainables.recipe.config import Config
from trainables.recipe.recipe import Backbone, Recipe

FIXED_SECTIONS = tuple(Options.model_fields)  # never searched


@dataclass(frozen=True)
class Section:
    """A mapping in a space."""

    keys: Mapping[str, Section | FieldInfo] = field(default_factory=dict)  # whatever the name is
    named: Mapping[str, Section] | None = None  # name -> its own keys; None: this section has no name
    check_name: Callable[[str], None] | None = None  # an open set of names: raises ValueError for an unknown one
    needs_name: bool = False

    @property
    def has_name(self) -> bool:
        return self.named is not None or self.check_name is not None

    def under(self, names: Sequence[str]) -> dict[str, Section | FieldInfo]:
        """The keys that all of these names have; without names, those that any has."""
        named = self.named or {}
        own = [named[name].keys for name in names or named if name in named]
        keys = {key: inside for part in own for key, inside in part.items()}
        if names:
            keys = {key: inside for key, inside in keys.items() if all(key in part for part in own)}
        return {**self.keys, **keys}


def check_backbone(name: str) -> None:
    """Raises ValueError where timm has no such model, naming the nearest ones."""
    from trainables.models.backbone_names import check_backbone_name  # reads timm's list of names when first asked

    check_backbone_name(name)


@cache
def recipe_grammar() -> Section:
    """The searched half of a space: `model` and the recipe's other sections."""
    fields = Recipe.model_fields
    backbone = _section(Backbone)
    head = _section(fields["head"].annotation)
    assert backbone is not None
    assert head is not None
    keys: dict[str, Section | FieldInfo] = {
        # a backbone's own parameters may stand beside it: they hold for every backbone then
        "model": Section({"backbone": backbone, "head": head, **backbone.keys}),
    }
    for name, info in fields.items():
        if name not in ("backbone", "head", *FIXED_SECTIONS):
            keys[name] = _section(info.annotation) or info
    train = keys["train"]
    assert isinstance(train, Section)
    # search.max_epochs is the one place for it, so that ASHA and the schedule agree
    keys["train"] = Section({key: value for key, value in train.keys.items() if key != "num_epochs"})
    return Section(keys)


def places_of(key: str, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sections, at `path` (one of a space's own) or inside it, that have this key."""

    def search(section: Section | FieldInfo | None, at: tuple[str, ...]) -> list[tuple[str, ...]]:
        if not isinstance(section, Section):
            return []
        inner = [place for name, inside in section.keys.items() for place in search(inside, (*at, name))]
        return ([at] if key in section.keys else []) + inner

    return search(recipe_grammar().keys.get(path[0]), path) if path else []


def _section(annotation: Any) -> Section | None:
    """The section for a part, or for parts that differ by their `name`; None for a value."""
    members = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    parts = [member for member in members if isinstance(member, type) and issubclass(member, Config)]
    if not parts or len(parts) < len([member for member in members if member is not NoneType]):
        return None
    named: dict[str, Section] = {}
    keys: dict[str, Section | FieldInfo] = {}
    for part in parts:
        keys = {key: _section(info.annotation) or info for key, info in part.model_fields.items()}
        name = keys.pop("name", None)
        if isinstance(name, FieldInfo) and get_origin(name.annotation) is Literal:
            named |= dict.fromkeys(get_args(name.annotation), Section(keys))
        elif name is not None:
            return Section(keys, check_name=check_backbone, needs_name=True)
    return Section(named=named, needs_name=len(parts) > 1) if named else Section(keys)
