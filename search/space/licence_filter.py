"""`licences: commercial`: a space without the pretrained weights that may not be used commercially.

A weight that stands in a choice is left out of it, a branch or row without any weight left goes whole, and a weight
that is named outright is refused. Weights whose licence nobody has stated count as ones that may not be used: nothing
allows it. Random weights and a user's own file (`weights_file`) are not looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from search.space.nodes import Branches, Choice, Fixed, Group, Node
from trainables.models.licences import CommercialUse, commercial_use, published_licence


def keep_commercial(root: Group, problems: list[str]) -> tuple[Group, list[str]]:
    """The space's nodes that remain, and a line for each weight that is left out; where none remains, or the only one
    is named, these lines go to `problems`."""
    lines: list[str] = []
    backbone, head = _filtered(root.children["backbone"], lines), root.children["head"]
    if backbone is None:
        problems += lines
        return root, []
    if isinstance(backbone, Branches) and isinstance(head, Branches) and head.parameter == backbone.parameter:
        head = replace(head, bodies={row: body for row, body in head.bodies.items() if row in backbone.bodies})
    return Group(root.path, {**root.children, "backbone": backbone, "head": head}), lines


def _filtered(node: Node, lines: list[str]) -> Node | None:
    if isinstance(node, Branches):
        bodies = {name: _filtered(body, lines) for name, body in node.bodies.items()}
        kept = {name: body for name, body in bodies.items() if body is not None}
        return replace(node, bodies=kept) if kept else None
    assert isinstance(node, Group)
    if not _downloads(node):
        return node
    name = node.children["name"]
    items: tuple[Any, ...] = name.items if isinstance(name, Choice) else (getattr(name, "value", ""),)
    faults = {item: fault for item in items if (fault := _fault(item))}
    lines += [f"{'.'.join(node.path)}: {fault}" for fault in faults.values()]
    if len(faults) == len(items):
        return None
    kept_name = replace(name, items=tuple(i for i in items if i not in faults)) if isinstance(name, Choice) else name
    return Group(node.path, {**node.children, "name": kept_name})


def _downloads(backbone: Group) -> bool:
    """Whether some recipe takes the weights that are published under the backbone's name."""
    return _may_be(backbone.children.get("pretrained"), True) and _may_be(backbone.children.get("weights_file"), None)


def _may_be(node: Node | None, wanted: object) -> bool:
    """`wanted` is the default, where a space does not say."""
    if node is None:
        return True
    return wanted in (node.items if isinstance(node, Choice) else (node.value if isinstance(node, Fixed) else None,))


def _fault(name: str) -> str:
    """Why a backbone's published weights may not be used; empty where they may."""
    licence = published_licence(name)
    use = commercial_use(licence)
    if use <= CommercialUse.ON_TERMS:
        return ""
    return (
        f"weights must allow commercial use under licences: commercial, got {name!r} ({licence}: {use.sentence}); use "
        "other weights, licences: any, or pretrained: false"
    )
