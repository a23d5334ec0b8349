"""What the fuzz tests share: hostile values, damaged documents and bytes, and the property that all readers keep."""

from __future__ import annotations

import copy
import json
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
ROOMS = [ROOT / room for room in ("search", "analysis", "trainables")]
MAX_CPU_S = 10.0  # of one read; a quiet core needs a hundredth
MAX_GROWTH_BYTES = 400 * 2**20
MAX_MESSAGE = 100_000

BIG, DEEP = "@big", "@deep"  # stand for numbers of 5000 digits and for lists in lists, which json.dumps refuses
TEXTS = ["", " ", "\0", "\ud800", "é" * 200, "a" * 5000, "~nobody.at.all/x", "../x", "/dev/zero", ".", "C:\\x"]
TEXTS += [BIG, DEEP, "s1.00-none", "s99.99-none", "<<", "=", "2026-13-45", "0x1f", "1e999", "null", "{}", "(a+)+$"]
TEXTS += ["name", "choice", "float", "upernet", "background"]
NUMBERS = [-1, 0, 1, 2, 255, 256, 2**31, 2**32, 2**63, -(2**63), 10**30, 10**400]
NUMBERS += [0.5, -0.0, 1e-320, 1e308, float("inf"), -float("inf"), float("nan")]  # type: ignore[list-item]
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=4), inner),
    max_leaves=6,
)


def examples(share: float = 1.0) -> int:
    """How many examples a test takes: a share of them where its reader is slow."""
    return max(1, int(share * int(os.environ.get("SEGSEARCH_FUZZ", "200"))))


def reads_or_refuses(read: Callable[[], object]) -> None:
    """The property: it returns, or raises a ValueError of this project with a message, in bounded time and memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read()
    except ValueError as error:
        _check_message(error)
    spent, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert spent < MAX_CPU_S, f"{spent:.1f} s"
    assert grown * 1024 < MAX_GROWTH_BYTES, f"{grown / 1024:.0f} MiB"


def _check_message(error: ValueError) -> None:
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert any(last.is_relative_to(room) for room in ROOMS), f"{last} raised {type(error).__name__}: {error}"
    assert 10 < len(str(error)) < MAX_MESSAGE, f"{len(str(error))} characters: {str(error)[:300]}"
    str(error).encode(errors="backslashreplace")  # as a terminal shows it


@st.composite
def damaged(draw: Any, document: Any) -> Any:
    """The document with up to four of its places changed, removed, doubled, or moved."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(changed))
        if not places:
            break
        inside, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["value", "value", "remove", "swap", "double", "rename"]))
        if kind == "value":
            inside[key] = draw(values)
        elif kind == "remove":
            del inside[key]
        elif kind == "swap":
            other, there = draw(st.sampled_from(places))
            inside[key] = copy.deepcopy(other[there])
        elif kind == "double" and isinstance(inside, list):
            inside.extend(copy.deepcopy(inside[key]) for _ in range(draw(st.sampled_from([1, 300]))))
        elif kind == "rename" and isinstance(inside, dict):
            inside[draw(st.sampled_from(TEXTS))] = inside.pop(key)
    return changed


def _places(inside: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
        yield inside, key
        if isinstance(inside[key], dict | list):
            yield from _places(inside[key])


def as_json(document: Any) -> bytes:
    text = json.dumps(document)
    return text.replace(f'"{BIG}"', "9" * 5000).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000).encode()


def as_yaml(document: Any) -> bytes:
    text = yaml.safe_dump(document, sort_keys=False, width=1000)
    text = text.replace(f"'{BIG}'", "9" * 5000).replace(f"'{DEEP}'", "[" * 500 + "]" * 500)
    return text.encode()


@st.composite
def spoilt(draw: Any, whole: bytes, snippets: tuple[bytes, ...] = ()) -> bytes:
    """The bytes cut short, or with a few of them changed, put in or taken out."""
    raw = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at, kind = draw(st.integers(0, len(raw))), draw(st.sampled_from(["cut", "change", "insert", "remove"]))
        if kind == "cut":
            del raw[at:]
        elif kind == "change":
            raw[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "insert":
            raw[at:at] = draw(st.sampled_from(snippets) if snippets else st.binary(max_size=9))
        else:
            del raw[at : at + draw(st.integers(1, 9))]
    return bytes(raw)
