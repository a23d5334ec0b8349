"""The `model` section: one model, or rows of a table of models, each with the backbones and heads that go together.

`model: {choice: {vit: {backbone: ..., head: ...}, swin: {...}}}` makes backbone and head branch by one parameter,
`model/name`, so that a row is taken whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.space.allowed_keys import Section
from search.space.nodes import Branches, Choice, Fixed, Group, Node, Path
from search.space.parser import MAX_ITEMS, parse_section
from trainables.models.compatibility import check_low_rank, check_pair, check_patches
from trainables.recipe.recipe import Augmentation, backbone_family

PARTS = ("backbone", "head")
PARAMETER = "model/name"


def parse_model(section: Section, tree: Any, problems: list[str]) -> dict[str, Node]:
    """'backbone' and 'head' with their nodes; what is faulty is left out and reported in `problems`."""
    path: Path = ("model",)
    rows = tree.get("choice") if isinstance(tree, dict) and set(tree) == {"choice"} else None
    if rows is None:
        return _parse_one(section, tree, path, problems)
    if not isinstance(rows, dict) or not rows:
        problems.append(f"model.choice: must map the name of each row to its backbone and head, got {rows!r}")
        return {}
    if len(rows) > MAX_ITEMS:
        problems.append(f"model.choice: must have at most {MAX_ITEMS} rows, got {len(rows)}; leave some out")
        return {}
    parsed = {row: _parse_one(section, body, (*path, "choice", row), problems) for row, body in rows.items()}
    whole = {row: nodes for row, nodes in parsed.items() if all(part in nodes for part in PARTS)}  # others: reported
    if not whole:
        return {}
    return {
        part: Branches((*path, "choice"), PARAMETER, {row: nodes[part] for row, nodes in whole.items()})
        for part in PARTS
    }


def _parse_one(section: Section, tree: Any, path: Path, problems: list[str]) -> dict[str, Node]:
    for part in PARTS:
        if part not in (tree if isinstance(tree, dict) else {}):
            problems.append(f"{'.'.join((*path, part))}: missing; write the name of a {part}, or {{choice: [...]}}")
    model = parse_section(section, tree, path, problems)
    if not isinstance(model, Group):
        return {}
    beside = {key: node for key, node in model.children.items() if key not in PARTS}
    found = {part: model.children[part] for part in PARTS if part in model.children}
    if "backbone" in found:
        found["backbone"] = _with_siblings(found["backbone"], beside)
    return found


def _with_siblings(backbone: Node, beside: Mapping[str, Node]) -> Node:
    """Keys beside `model.backbone` hold for every backbone that does not set them itself."""
    if isinstance(backbone, Branches):
        return Branches(
            backbone.path,
            backbone.parameter,
            {name: _with_siblings(body, beside) for name, body in backbone.bodies.items()},
        )
    assert isinstance(backbone, Group)
    return Group(backbone.path, {**beside, **backbone.children})


def family_firsts(root: Group) -> list[tuple[str, dict[str, Any]]]:
    """The first backbone of each family, by family, with the picks that lead to it."""
    found: dict[str, dict[str, Any]] = {}
    for name, picks, _ in _named(root.children["backbone"], {}):
        found.setdefault(backbone_family(name), picks)
    return list(found.items())


def model_problems(root: Group) -> list[str]:
    """One line per backbone, head, crop or option of theirs that do not go together."""
    return [*_pair_problems(root), *_patch_problems(root), *_low_rank_problems(root)]


def _pair_problems(root: Group) -> list[str]:
    """One line per head that some backbone of the same row cannot feed, at the head's YAML path."""
    problems = []
    for head, head_picks, path in _named(root.children["head"], {}):
        for backbone, picks, _ in _named(root.children["backbone"], {}):
            if any(head_picks.get(parameter, row) != row for parameter, row in picks.items()):
                continue  # of another row
            try:
                check_pair(backbone, head)
            except ValueError as error:
                problems.append(f"{'.'.join(path)}: {error}")
                break
    return problems


def _patch_problems(root: Group) -> list[str]:
    """One line per backbone whose patches fill no crop that the space has, at the backbone's YAML path."""
    problems = []
    for backbone, _, path in _named(root.children["backbone"], {}):
        try:
            check_patches(backbone, _crops_px(root))
        except ValueError as error:
            problems.append(f"{'.'.join(path)}: {error}")
    return problems


def _low_rank_problems(root: Group) -> list[str]:
    """One line per backbone that LoRA is asked of and cannot adapt, at the YAML path of its rank."""
    problems = []
    for rank, names in _ranks(root.children["backbone"]):
        for name in names:
            try:
                check_low_rank(name)
            except ValueError as error:
                problems.append(f"{'.'.join(rank.path)}: {str(error).removeprefix('lora_rank ')}")
    return problems


def _ranks(node: Node) -> list[tuple[Node, tuple[str, ...]]]:
    """Each rank that is not always 0, with the names of the backbones that it holds for."""
    if isinstance(node, Branches):
        return [found for body in node.bodies.values() for found in _ranks(body)]
    assert isinstance(node, Group)
    rank = node.children.get("lora_rank")
    if rank is None or (isinstance(rank, Fixed) and rank.value == 0):
        return []
    return [(rank, tuple(name for name, _, _ in _named(node, {})))]


def _crops_px(root: Group) -> tuple[int, ...]:
    section = root.children.get("augmentation")
    node = section.children.get("crop_px") if isinstance(section, Group) else None
    if isinstance(node, Choice):
        return node.items
    return (node.value if isinstance(node, Fixed) else Augmentation().crop_px,)


def _named(node: Node, picks: dict[str, Any]) -> list[tuple[str, dict[str, Any], Path]]:
    """Each name that a backbone's or head's node can take, with the picks that lead to it and its path."""
    if isinstance(node, Branches):
        return [found for name, body in node.bodies.items() for found in _named(body, {**picks, node.parameter: name})]
    assert isinstance(node, Group)
    name = node.children["name"]
    if isinstance(name, Choice):
        return [(item, {**picks, name.parameter: item}, node.path) for item in name.items]
    return [(str(getattr(name, "value", "")), picks, node.path)]
