"""Classes that are mirror images of one another: a left shoe in a mirrored image is a right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.data.card import DataCard, Findings, near

SIDES = (  # words that change places, by language
    ("left", "right"), ("l", "r"), ("lft", "rgt"), ("lh", "rh"),
    ("links", "rechts"), ("linke", "rechte"), ("linker", "rechter"), ("linkes", "rechtes"),
    ("gauche", "droite"), ("gauche", "droit"), ("izquierda", "derecha"), ("izquierdo", "derecho"),
    ("sinistra", "destra"), ("sinistro", "destro"), ("esquerda", "direita"), ("esquerdo", "direito"),
)  # fmt: skip
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")
Pairs = tuple[tuple[int, int], ...]


def flip_pairs(card: DataCard, classes: Sequence[str], findings: Findings) -> Pairs:
    """The card's pairs as class indices. Names that are no class, or in two pairs, are errors; a pair that the names
    suggest and the card does not speak of is a warning."""
    if card.flip_pairs is None:
        for left, right in suspected_pairs(classes):
            findings.warn(
                "classes",
                "left and right change places where an image is mirrored (augmentation.hflip_p and vflip_p, "
                "copy_paste, tta.flips), and labels do not: set flip_pairs in the data card, [] where mirrored classes "
                "stay as they are",
                f"[{left}, {right}]",
            )
        return ()
    used: set[str] = set()
    for name in (name for pair in card.flip_pairs for name in pair):
        if name not in classes:
            findings.error(f"flip_pairs names {name!r}, which is no class{near(name, list(classes))}")
        elif name in used:
            findings.error(f"flip_pairs names {name!r} twice; a class changes places with one other")
        used.add(name)
    index = {name: k for k, name in enumerate(classes)}
    return tuple((index[a], index[b]) for a, b in card.flip_pairs if a in index and b in index)


def suspected_pairs(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Classes whose names differ in a side alone: left_shoe and right_shoe, handL and handR."""
    by_name = {name.casefold(): name for name in classes}
    found = []
    for name in classes:
        for match in WORD.finditer(name):
            for left, right in SIDES:
                if match[0].casefold() == left:
                    other = by_name.get((name[: match.start()] + right + name[match.end() :]).casefold())
                    found += [(name, other)] if other is not None else []
    return found


def swap_table(pairs: Pairs) -> NDArray[np.uint8]:
    """The label (256,) that each label becomes in a mirrored image."""
    table = np.arange(256, dtype=np.uint8)
    for a, b in pairs:
        table[[a, b]] = table[[b, a]]
    return table
