"""Reads XML as a stream of events. A document type, and with it every entity of its own, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

CHUNK_BYTES = 64 * 1024
MAX_DEPTH = 50
MAX_TEXT = 4096  # characters of an element that are kept: names of labels


@dataclass
class Element:
    """An element that has begun or ended. `text` is what stood between its tags, once it has ended,
    as far as its first MAX_TEXT characters."""

    path: tuple[str, ...]  # from the root to its own tag
    attributes: dict[str, str]
    ended: bool = False
    text: str = ""


@dataclass
class _Events:
    open: list[Element] = field(default_factory=list)
    done: list[Element] = field(default_factory=list)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise ValueError(f"elements are nested more than {MAX_DEPTH} deep; export it again")
        path = (*self.open[-1].path, tag) if self.open else (tag,)
        self.open.append(Element(path, attributes))
        self.done.append(Element(path, attributes))

    def end(self, _tag: str) -> None:
        element = self.open.pop()
        element.ended = True
        self.done.append(element)

    def characters(self, text: str) -> None:
        element = self.open[-1]
        if len(element.text) < MAX_TEXT:
            element.text += text[: MAX_TEXT - len(element.text)]


def elements(path: Path) -> Iterator[Element]:
    """Every element of a file twice, when it begins and when it ends. Raises ValueError for what is no sound XML."""
    events = _Events()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = events.start, events.end
    parser.CharacterDataHandler = events.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    with path.open("rb") as stream:
        try:
            while chunk := stream.read(CHUNK_BYTES):
                parser.Parse(chunk, False)
                yield from events.done
                events.done.clear()
            parser.Parse(b"", True)
        except (expat.ExpatError, LookupError) as error:  # LookupError: an unknown encoding
            raise ValueError(f"is not valid XML ({error}); export it again") from error
    yield from events.done


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("an XML file must have no document type (<!DOCTYPE ...>), which may name other files; remove it")
