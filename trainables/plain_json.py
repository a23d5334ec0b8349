"""JSON that others wrote: parsed as far as it is text and not nested out of reach."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # what may be one: the escape of a surrogate
Text = bytes | bytearray | str


def parse_json(raw: Text) -> Any:
    """The value of a document, with or without a byte order mark.

    Raises ValueError, with the reason alone, for what is no JSON or no UTF-8, is nested too deep, has a number of
    thousands of digits, or text with half a surrogate pair, which no file and no terminal could take.
    """
    try:
        value = json.loads(raw.removeprefix("\ufeff") if isinstance(raw, str) else raw)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise ValueError("nested too deep to be read") from None
    except json.JSONDecodeError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        raise ValueError("a number of thousands of digits") from error
    if HALF_A_PAIR.search(raw.encode(errors="replace") if isinstance(raw, str) else raw):
        _refuse_half_pairs(value)
    return value


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object that a file holds. Raises ValueError that names the file and the reason, and ends with `remedy`."""
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} must be a JSON file, got none ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got a broken file ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object, got {type(value).__name__}; {remedy}")
    return value


def _refuse_half_pairs(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{one!r:.60} has half a surrogate pair, which is no character") from None
