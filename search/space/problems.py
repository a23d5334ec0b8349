"""The error of a faulty space: all problems at once, each with its YAML path and the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MAX_LISTED = 50
MAX_LINE = 1000  # characters: a value is shown whole where that is short


class SpaceProblems(ValueError):
    """Everything that is wrong with a space, one line each in `.problems`; `str()` lists the first."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        self.name = name
        self.problems = list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = [_shortened(line) for line in self.problems[:MAX_LISTED]]
        left = len(self.problems) - len(listed)
        more = [f"... and {left} more"] if left else []
        super().__init__("\n  ".join([f"space {name}: {count}", *listed, *more]))

    def __reduce__(self) -> tuple[type[SpaceProblems], tuple[str, list[str]]]:
        return SpaceProblems, (self.name, self.problems)


def _shortened(line: str) -> str:
    """The rule at the beginning and the remedy at the end, where the value between them is long."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 300]} ... {line[-300:]}"


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
