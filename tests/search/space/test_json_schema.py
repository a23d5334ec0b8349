"""The JSON schema for editors agrees with what `load_space` takes and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from search.space.descriptions import DESCRIPTIONS, describe
from search.space.json_schema import json_schema
from search.space.yaml_format import parse_yaml

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_it_is_a_schema_and_stays_json() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


@pytest.mark.parametrize(
    "text",
    [
        "model: {backbone: resnet18, head: upernet}",
        "model: {backbone: {choice: {resnet18: {drop_path: {float: [0, 0.2]}}}}, head: {choice: {fpn: }}}",
        "model: {head: {name: upernet, channels: {int: [64, 128]}}}",
        "optimizer: {lr: {log: [1e-5, 1e-3]}, clip_norm: {choice: [null, 1.0]}}",
        "loss: {choice: [dice, focal]}",
        "profiles: {cpu: {search: {num_trials: 3}, augmentation: {short_px: null}}}",
        "pseudo: {share: [0.25, 0.5], target_precision: {Glass: 0.99}, schedule: continue}",
    ],
)
def test_what_it_takes(text: str) -> None:
    VALIDATOR.validate(parse_yaml(text, "x"))


@pytest.mark.parametrize(
    "text",
    [
        "modle: {}",
        "model: {heads: upernet}",
        "model: {head: {choice: {upernet: {chanels: 3}}}}",
        "model: {head: {channels: 64}}",
        "optimizer: {lr: {flot: [0, 1]}}",
        "optimizer: {lr: {log: [1]}}",
        "optimizer: {name: {float: [0, 1]}}",
        "search: {num_trials: {int: [1, 3]}}",
        "train: {num_epochs: 5}",
        "profiles: {cpu: {profiles: {}}}",
    ],
)
def test_what_it_refuses(text: str) -> None:
    assert not VALIDATOR.is_valid(parse_yaml(text, "x"))


def properties(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that the schema names, wherever it stands."""
    if isinstance(node, list):
        for each in node:
            yield from properties(each, path)
    if isinstance(node, dict):
        for key, part in node.items():
            if key == "properties":
                yield from ((f"{path}.{name}", inside) for name, inside in part.items())
            yield from properties(part, f"{path}.{key}")


def test_every_key_has_a_description() -> None:
    found = dict(properties(json_schema()))
    assert len(found) > 300
    assert [path for path, part in found.items() if not part.get("description")] == []


def test_every_description_is_of_a_key() -> None:
    told = {part["description"] for _, part in properties(json_schema())}
    assert [key for key, text in DESCRIPTIONS.items() if text not in told] == []


def test_the_longest_match_describes() -> None:
    assert describe("augmentation.copy_paste.scale_min") == "smallest scale of an object"
    assert describe("augmentation.scale_min") == "smallest random scale"
    with pytest.raises(KeyError, match="has no description"):
        describe("augmentation.unknown")
