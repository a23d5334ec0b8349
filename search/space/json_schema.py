"""The JSON Schema (2020-12) of a space file, for editors: `segsearch schema`.

Each searched field may be its plain value or a search expression that fits its type. The schema is for completion and
first checks; `load_space` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from search.space.allowed_keys import Section, recipe_grammar
from search.space.descriptions import describe
from search.space.options import Options

Schema = dict[str, Any]
RANGE: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}


def json_schema() -> Schema:
    """A schema that stands alone; its `$defs` hold the options and the search expressions."""
    options = Options.model_json_schema(ref_template="#/$defs/{model}")
    searched = {key: _part(inside, key) for key, inside in recipe_grammar().keys.items()}
    rows = {"type": "object", "minProperties": 1, "additionalProperties": searched["model"]}
    searched["model"] = {"anyOf": [searched["model"], _mapping(_described({"choice": rows}), ["choice"])]}
    points = {"type": "array", "items": {"type": "object"}}
    sections = {key: {"$ref": f"#/$defs/{key}"} for key in searched} | options["properties"] | {"points": points}
    sections = _described(sections)
    for name, part in options["$defs"].items():
        part["properties"] = _described(part["properties"], name.lower())
    whole = {**RANGE, "items": {"type": "integer"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "segsearch space",
        **_mapping(
            {
                **_described({"extends": {"type": "string"}}),
                **sections,
                **_described({"profiles": {"type": "object", "additionalProperties": {"$ref": "#/$defs/overrides"}}}),
            }
        ),
        "$defs": {
            **options["$defs"],
            **searched,
            "overrides": _mapping(sections),
            "float": _mapping({"float": {**RANGE, "description": "uniform between [low, high]"}}, ["float"]),
            "log": _mapping({"log": {**RANGE, "description": "log-uniform between [low, high], above 0"}}, ["log"]),
            "int": _mapping({"int": {**whole, "description": "a whole number in [low, high]"}}, ["int"]),
        },
    }


def _part(inside: Section | FieldInfo, path: str) -> Schema:
    return _section(inside, path) if isinstance(inside, Section) else _value(inside)


def _section(section: Section, path: str) -> Schema:
    if not section.has_name:
        return {**_mapping(_parts(section.keys, path)), "type": ["object", "null"]}
    named = section.named
    if named is None:
        name: Schema = {"type": "string"}
        branches: Schema = {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _mapping(_parts(section.keys, path)),
        }
    else:
        name = {"enum": list(named)}
        bodies = {
            key: {**_mapping(_parts(inside.keys, f"{path}.{key}")), "type": ["object", "null"]}
            for key, inside in named.items()
        }
        branches = {**_mapping(_described(bodies, path)), "minProperties": 1}
    keys = {**_described({"name": {"anyOf": [name, _choice(name)]}}, path), **_parts(section.under(()), path)}
    required = ["name"] if section.needs_name else []
    chosen = _mapping(_described({"choice": branches}), ["choice"])
    return {"anyOf": [name, _mapping(keys, required), _choice(name), chosen]}


def _value(info: FieldInfo) -> Schema:
    """The value itself, a choice between such values or, for numbers, a range."""
    plain = TypeAdapter(info.rebuild_annotation()).json_schema()
    forms = {option.get("type") for option in plain.get("anyOf", [plain])}
    ranges = ["float", "log"] if "number" in forms else []
    if ranges or "integer" in forms:
        ranges.append("int")
    default = {} if info.is_required() else {"default": info.default}
    return {"anyOf": [plain, _choice(plain), *({"$ref": f"#/$defs/{kind}"} for kind in ranges)], **default}


def _choice(item: Schema) -> Schema:
    one_of = {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}
    return _mapping(_described({"choice": one_of}), ["choice"])


def _parts(keys: Mapping[str, Section | FieldInfo], path: str) -> dict[str, Schema]:
    return _described({key: _part(inside, f"{path}.{key}") for key, inside in keys.items()}, path)


def _described(properties: Mapping[str, Schema], path: str = "") -> dict[str, Schema]:
    """Each property with its description, unless its type brings one."""
    return {
        key: {"description": describe(f"{path}.{key}"), **part} if "description" not in part else part
        for key, part in properties.items()
    }


def _mapping(properties: Mapping[str, Schema], required: list[str] | None = None) -> Schema:
    mapping: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**mapping, "required": required} if required else mapping
