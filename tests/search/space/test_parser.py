"""The space language: what parses to which nodes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from search.space.allowed_keys import recipe_grammar
from search.space.nodes import Group, Searched, draw, searched
from search.space.parser import parse_section
from search.space.yaml_format import parse_yaml


def parse(text: str) -> tuple[Group, list[str]]:
    problems: list[str] = []
    node = parse_section(recipe_grammar(), parse_yaml(text, "x"), (), problems)
    assert isinstance(node, Group)
    return node, problems


def first(node: Searched) -> Any:
    return next(iter(node.bodies)) if hasattr(node, "bodies") else node.items[0] if hasattr(node, "items") else node.low


@pytest.mark.parametrize(
    ("text", "parameters", "drawn"),
    [
        ("optimizer: {lr: {log: [1e-4, 1e-3]}}", ["optimizer/lr"], {"optimizer": {"lr": 1e-4}}),
        ("model: {backbone: resnet18}", [], {"model": {"backbone": {"name": "resnet18"}}}),
        ("model: {backbone: {choice: [resnet18]}}", ["model/backbone"], {"model": {"backbone": {"name": "resnet18"}}}),
        ("model: {head: {name: upernet, channels: 64}}", [], {"model": {"head": {"name": "upernet", "channels": 64}}}),
        (
            "model: {head: {choice: {upernet: {channels: {int: [8, 9]}}, segformer: {channels: {choice: [8]}}}}}",
            ["model/head/name", "model/head/upernet/channels", "model/head/segformer/channels"],
            {"model": {"head": {"name": "upernet", "channels": 8}}},
        ),
        (
            "optimizer: {choice: {adamw: {lr: {log: [1e-4, 1e-3]}}, sgd: {lr: {log: [1e-2, 1e-1]}}}}",
            ["optimizer/name", "optimizer/adamw/lr", "optimizer/sgd/lr"],
            {"optimizer": {"name": "adamw", "lr": 1e-4}},
        ),
        ("loss: {name: {choice: [dice, focal]}}", ["loss/name"], {"loss": {"name": "dice"}}),
        ("loss: {choice: [dice, focal]}", ["loss"], {"loss": {"name": "dice"}}),
        ("augmentation:", [], {"augmentation": {}}),
    ],
)
def test_what_each_form_means(text: str, parameters: list[str], drawn: dict[str, Any]) -> None:
    node, problems = parse(text)
    assert problems == []
    assert [found.parameter for found in searched(node)] == parameters
    assert draw(node, first) == drawn


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: {heads: upernet}", "model.heads: unknown key; did you mean 'head'?"),
        ("model: {head: upernt}", "model.head.name: unknown name 'upernt'; nearest: upernet, unet, pspnet"),
        (
            "model: {head: {choice: {upernet: {chanels: 8}}}}",
            "model.head.choice.upernet.chanels: unknown key; did you mean 'channels'?",
        ),
        ("model: {head: {choice: [upernet, 5]}}", "model.head.choice: must be a name, got 5"),
        ("model: {head: {channels: 8}}", "model.head: must have a `name`, got {'channels': 8}"),
        ("model: {head: {float: [1, 2]}}", "model.head: is a name, not a number"),
        ("model: {head: {choice: {}}}", "model.head: a choice must have one branch or more"),
        ("model: {backbone: resnet19}", "model.backbone.name: unknown timm backbone 'resnet19'; nearest: resnet18"),
        ("loss: {choise: [dice]}", "loss.choise: unknown key; did you mean 'choice'?"),
        ("train: {num_epochs: 5}", "train.num_epochs: is set by search.max_epochs; move the value there"),
        ("train: {choice: {a: {}}}", "train: is not searched as a whole; search its keys"),
        ("train: 5", "train: must be a mapping, got 5"),
        ("optimizer: {lr: {log: [0, 1]}}", "optimizer.lr: {log: [low, high]} must begin above 0, got [0, 1]"),
        ("optimizer: {lr: {float: [2, 1]}}", "low below high, got [2, 1]; write [1, 2]"),
        ("optimizer: {lr: {float: [1, 1]}}", "got [1, 1]; write 1 to fix it"),
        ("optimizer: {lr: {float: [1, 2, 3]}}", "must have two numbers"),
        ("optimizer: {lr: {float: [a, 2]}}", "must have two numbers, low below high, got ['a', 2]"),
        ("optimizer: {lr: {float: [true, 2]}}", "must have two numbers"),
        ("train: {batch_size: {int: [1.5, 2]}}", "must have two whole numbers"),
        ("optimizer: {lr: {flot: [0, 1]}}", "optimizer.lr: must be a value or one of"),
        ("optimizer: {lr: {float: [0, 1], log: [1, 2]}}", "a search expression has one key"),
        ("optimizer: {lr: {choice: []}}", "optimizer.lr: a choice must be a list with one item or more, got []"),
        ("optimizer: {lr: {choice: {a: {}}}}", "optimizer.lr: branches are allowed only where a name is chosen"),
        ("optimizer: {lr: {choice: [{a: 1}]}}", "a choice is between values or lists of values"),
        ("optimizer: {lr: {choice: [1, 2, 1.0]}}", "must name each item once, got 1.0 again"),
    ],
)
def test_each_fault_is_told_with_its_path(text: str, problem: str) -> None:
    _, problems = parse(text)
    assert len(problems) == 1
    assert problem in problems[0]


def test_keys_of_a_searched_name_must_hold_for_every_name() -> None:
    _, problems = parse("model: {head: {name: {choice: [upernet, segformer]}, channels: 64, aux_weight: 0.4}}")
    assert problems == ["model.head.aux_weight: unknown key; known: channels, choice, dropout, name"]
