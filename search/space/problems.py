"""The error of a faulty space: all problems at once, each with its YAML path and the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SpaceProblems(ValueError):
    """Everything that is wrong with a space, one line each in `.problems`."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        self.name = name
        self.problems = list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"space {name}: {count}", *problems]))

    def __reduce__(self) -> tuple[type[SpaceProblems], tuple[str, list[str]]]:
        return SpaceProblems, (self.name, self.problems)


def nearest_three(word: object, known: Iterable[str]) -> str:
    """'; nearest: segmenter, segformer, setr_pup': for names of things that resemble each other."""
    return f"; nearest: {', '.join(difflib.get_close_matches(str(word), sorted(known), n=3, cutoff=0.0))}"


def nearest(word: object, known: Iterable[str]) -> str:
    """'; did you mean 'head'?', or the known words where none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
